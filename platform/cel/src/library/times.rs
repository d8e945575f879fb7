//! Getters of moments and lengths of time.

use jiff::{Zoned, tz::TimeZone};

use crate::{EvaluationError, Val, time};

/// A getter; none if it is something else.
pub(crate) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Result<Val<'a>, EvaluationError>> {
    let (moment, zone) = match args {
        [Val::Duration(nanos)] => return of_duration(function, *nanos).map(|value| Ok(Val::Int(value))),
        [Val::Timestamp(moment)] => (moment, Some(TimeZone::UTC)),
        [Val::Timestamp(moment), Val::String(zone)] => (moment, time::zone(zone)),
        _ => return None,
    };
    let Some(zone) = zone else {
        return is_getter(function).then(|| {
            let name = args.get(1).and_then(Val::as_str).unwrap_or_default();
            Err(EvaluationError::new(format!("unknown time zone {name}")))
        });
    };
    part(function, &moment.to_zoned(zone)).map(|value| Ok(Val::Int(value)))
}

fn is_getter(function: &str) -> bool {
    function.starts_with("get")
}

fn part(function: &str, zoned: &Zoned) -> Option<i64> {
    Some(match function {
        "getFullYear" => i64::from(zoned.year()),
        "getMonth" => i64::from(zoned.month()) - 1,
        "getDayOfYear" => i64::from(zoned.day_of_year()) - 1,
        "getDate" => i64::from(zoned.day()),
        "getDayOfMonth" => i64::from(zoned.day()) - 1,
        "getDayOfWeek" => i64::from(zoned.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(zoned.hour()),
        "getMinutes" => i64::from(zoned.minute()),
        "getSeconds" => i64::from(zoned.second()),
        "getMilliseconds" => i64::from(zoned.millisecond()),
        _ => return None,
    })
}

fn of_duration(function: &str, nanos: i64) -> Option<i64> {
    Some(match function {
        "getHours" => nanos / 3_600_000_000_000,
        "getMinutes" => nanos / 60_000_000_000,
        "getSeconds" => nanos / 1_000_000_000,
        "getMilliseconds" => nanos / 1_000_000 % 1_000,
        _ => return None,
    })
}
