//! The five fields of a schedule and their meaning (`robfig/cron`'s standard parser, which upstream uses).

use jiff::{Timestamp, Zoned, civil::Date, tz::TimeZone};

/// When something is due.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// If both are restricted either is enough.
    any_day: bool,
    any_weekday: bool,
    /// Instead of fields: `@every`.
    every_seconds: Option<i64>,
    zone: TimeZone,
}

/// No schedule lies further ahead, or it never comes (29 February takes eight at most).
const YEARS: i16 = 9;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn number(text: &str, names: &[&str], first: u32) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = names.iter().position(|name| *name == lower) {
        return Ok(first + u32::try_from(at).unwrap_or_default());
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}"))
}

/// One field as bits, and whether it is unrestricted.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let (mut bits, mut any) = (0, false);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().map_err(|_| format!("failed to parse int from {step}"))?),
            None => (part, 1),
        };
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        let (from, to) = match range {
            "*" | "?" => {
                any |= step == 1;
                (min, max)
            }
            _ => match range.split_once('-') {
                Some((from, to)) => (number(from, names, min)?, number(to, names, min)?),
                None => {
                    let from = number(range, names, min)?;
                    (from, if part.contains('/') { max } else { from })
                }
            },
        };
        if from < min || to > max {
            return Err(format!("range ({from}-{to}) is outside of {min}-{max}: {part}"));
        }
        if from > to {
            return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
        }
        bits |= (from..=to).step_by(step as usize).fold(0_u64, |bits, n| bits | 1 << n);
    }
    Ok((bits, any))
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// With the parser's text.
    pub(super) fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let mut every_seconds = None;
        let mut fields: Vec<&str> = text.split_whitespace().collect();
        if let Some(duration) = text.strip_prefix("@every ") {
            let parsed = pharos_api::time::parse_go_duration(duration.trim()).filter(|duration| duration.is_positive());
            every_seconds = Some(parsed.ok_or_else(|| format!("failed to parse duration {text}"))?.as_secs().max(1));
            fields = vec!["*"; 5];
        }
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
        };
        let (days, any_day) = field(days, 1, 31, &[])?;
        let (weekdays, any_weekday) = field(weekdays, 0, 6, &WEEKDAYS)?;
        Ok(Self {
            minutes: field(minutes, 0, 59, &[])?.0,
            hours: field(hours, 0, 23, &[])?.0,
            days,
            months: field(months, 1, 12, &MONTHS)?.0,
            weekdays,
            any_day,
            any_weekday,
            every_seconds,
            zone,
        })
    }

    fn day_matches(&self, date: Date) -> bool {
        let has = |bits: u64, n: i8| bits & (1 << n) != 0;
        if !has(self.months, date.month()) {
            return false;
        }
        let (day, weekday) = (has(self.days, date.day()), has(self.weekdays, date.weekday().to_sunday_zero_offset()));
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    /// The first time after `after`; `None` if there is none.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if let Some(seconds) = self.every_seconds {
            return Timestamp::from_second(after.as_second() + seconds).ok();
        }
        let start = after.to_zoned(self.zone.clone());
        let mut date = start.date();
        let last = date.year() + YEARS;
        while date.year() <= last {
            if self.day_matches(date)
                && let Some(found) = self.first_of_day(date, after)
            {
                return Some(found);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// A time that the clock skips is not due that day; one that it passes twice is due the first time.
    fn first_of_day(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        for hour in (0..24_i8).filter(|hour| self.hours & (1 << hour) != 0) {
            for minute in (0..60_i8).filter(|minute| self.minutes & (1 << minute) != 0) {
                let civil = date.at(hour, minute, 0, 0);
                let zoned: Zoned = civil.to_zoned(self.zone.clone()).ok()?;
                if zoned.datetime() == civil && zoned.timestamp() > after {
                    return Some(zoned.timestamp());
                }
            }
        }
        None
    }

    /// The latest time after `after` and not after `now`, and how many were missed before it, counted up to 100.
    pub(super) fn latest(&self, after: Timestamp, now: Timestamp) -> Option<(Timestamp, usize)> {
        let mut latest = None;
        let mut at = after;
        let mut count = 0_usize;
        while let Some(next) = self.next(at).filter(|next| *next <= now) {
            latest = Some(next);
            count += 1;
            at = next;
            if count > 100 {
                // Too many to walk through: begin anew shortly before now, by doubling steps back.
                let mut back = 60;
                loop {
                    let from = Timestamp::from_second(now.as_second().saturating_sub(back)).unwrap_or(after).max(at);
                    if from == at || self.next(from).is_some_and(|next| next <= now) {
                        at = from;
                        break;
                    }
                    back *= 2;
                }
                while let Some(next) = self.next(at).filter(|next| *next <= now) {
                    (latest, at) = (Some(next), next);
                }
                break;
            }
        }
        latest.map(|latest| (latest, count - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, after: &str, next: Option<&str>) {
        let schedule = Schedule::parse(schedule, TimeZone::UTC).unwrap();
        let found = schedule.next(after.parse().unwrap()).map(|at| at.to_string());
        assert_eq!(found.as_deref(), next, "{schedule:?} after {after}");
    }

    #[test]
    fn the_next_time() {
        check("*/5 * * * *", "2026-01-01T00:01:30Z", Some("2026-01-01T00:05:00Z"));
        check("*/5 * * * *", "2026-01-01T00:05:00Z", Some("2026-01-01T00:10:00Z"));
        check("30 4 * * mon-fri", "2026-01-02T05:00:00Z", Some("2026-01-05T04:30:00Z"));
        check("0 0 13 * fri", "2026-01-10T00:00:00Z", Some("2026-01-13T00:00:00Z"));
        check("0 0 29 2 *", "2026-01-01T00:00:00Z", Some("2028-02-29T00:00:00Z"));
        check("0 0 31 feb *", "2026-01-01T00:00:00Z", None);
        check("@hourly", "2026-01-01T00:00:00Z", Some("2026-01-01T01:00:00Z"));
        check("5/20 1 * * *", "2026-01-01T01:30:00Z", Some("2026-01-01T01:45:00Z"));
        check("@every 90s", "2026-01-01T00:00:00Z", Some("2026-01-01T00:01:30Z"));
    }

    #[test]
    fn bad_schedules() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "x * * * *", "@often"] {
            assert!(Schedule::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
    }

    #[test]
    fn the_latest_time() {
        let schedule = Schedule::parse("* * * * *", TimeZone::UTC).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (latest, missed) = schedule.latest(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:03:30Z")).unwrap();
        assert_eq!((latest, missed), (at("2026-01-01T00:03:00Z"), 2));
        let (latest, missed) = schedule.latest(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:03:30Z")).unwrap();
        assert_eq!((latest, missed), (at("2026-01-01T00:03:00Z"), 100));
        assert!(schedule.latest(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:59Z")).is_none());
    }
}
