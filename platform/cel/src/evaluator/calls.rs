//! Functions, by name and the values they are called with.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use pharos_api::quantity::Quantity;

use super::{
    operators,
    regexes::{self, Regexes},
};
use crate::{
    EvaluationError, Val,
    library::{
        cidr::{self, Cidr},
        convert, format, lists,
        semver::Semver,
        strings, times,
        url::Url,
    },
    value::Opaque,
};

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

/// Calls a function; a method's receiver is its first argument.
///
/// # Errors
///
/// Those of the function, and `no such overload` when it takes no such values.
pub(crate) fn call<'a>(function: &str, args: Vec<Val<'a>>, known: &Regexes) -> Outcome<'a> {
    if let [a, b] = &args[..]
        && let Some(outcome) = operators::binary(function, a, b)
    {
        return outcome;
    }
    let found = match &args[..] {
        [Val::Opaque(opaque), rest @ ..] => methods(function, opaque, rest),
        [Val::String(text), Val::String(pattern), rest @ ..] => matching(function, text, pattern, rest, known),
        _ => None,
    };
    found
        .or_else(|| strings::call(function, &args))
        .or_else(|| lists::call(function, &args))
        .or_else(|| times::call(function, &args))
        .or_else(|| convert::call(function, &args))
        .or_else(|| makers(function, &args))
        .or_else(|| general(function, &args))
        .unwrap_or_else(|| Err(EvaluationError::overload()))
}

fn general<'a>(function: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    Some(match (function, args) {
        ("!_", [Val::Bool(value)]) => Ok(Val::Bool(!value)),
        ("-_", [value]) => operators::negate(value),
        ("size", [value @ (Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_))]) => {
            Ok(Val::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        ("optional.of", [value]) => Ok(Val::some(value.clone())),
        ("optional.ofNonZeroValue", [value]) => Ok(if is_zero(value) { Val::Optional(None) } else { Val::some(value.clone()) }),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("value", [Val::Optional(value)]) => match value {
            Some(value) => Ok((**value).clone()),
            None => Err(EvaluationError::new("optional.none() dereference")),
        },
        ("hasValue", [Val::Optional(value)]) => Ok(Val::Bool(value.is_some())),
        ("optional.unwrap" | "unwrapOpt", [Val::List(list)]) => list.items().and_then(|items| {
            let mut values = Vec::new();
            for item in items {
                match item {
                    Val::Optional(value) => values.extend(value.map(|value| (*value).clone())),
                    _ => return Err(EvaluationError::overload()),
                }
            }
            Ok(Val::list(values))
        }),
        _ => return None,
    })
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Optional(None) => true,
        Val::Bool(value) => !value,
        Val::Int(value) | Val::Duration(value) => *value == 0,
        Val::Uint(value) => *value == 0,
        Val::Double(value) => *value == 0.0,
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => value.size() == 0,
        Val::Optional(Some(value)) => is_zero(value),
        _ => false,
    }
}

fn matching<'a>(function: &str, text: &str, pattern: &str, rest: &[Val<'a>], known: &Regexes) -> Option<Outcome<'a>> {
    if !matches!(function, "matches" | "find" | "findAll") {
        return None;
    }
    let regex = match regexes::get(known, pattern) {
        Ok(regex) => regex,
        Err(error) => return Some(Err(error)),
    };
    let all = |limit: usize| Val::list(regex.find_iter(text).take(limit).map(|found| Val::text(found.as_str())).collect());
    Some(match (function, rest) {
        ("matches", []) => Ok(Val::Bool(regex.is_match(text))),
        ("find", []) => Ok(Val::text(regex.find(text).map_or("", |found| found.as_str()))),
        ("findAll", []) => Ok(all(usize::MAX)),
        ("findAll", [Val::Int(limit)]) => Ok(all(usize::try_from(*limit).unwrap_or(usize::MAX))),
        _ => return None,
    })
}

/// What makes a value of a library out of a string.
fn makers<'a>(function: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    let opaque = |value: Result<Opaque, String>| value.map(Val::Opaque).map_err(EvaluationError::new);
    if let (Some(name), []) = (function.strip_prefix("format."), args) {
        return format::Format::named(name).map(|format| Ok(Val::Opaque(Opaque::Format(format))));
    }
    let (text, normalize) = match args {
        [Val::String(text)] => (&**text, false),
        [Val::String(text), Val::Bool(normalize)] if matches!(function, "semver" | "isSemver") => (&**text, *normalize),
        _ => return None,
    };
    let semver = || if normalize { Semver::parse(&Semver::normalize(text)) } else { Semver::parse(text) };
    Some(match function {
        "url" => opaque(Url::parse(text).map(|url| Opaque::Url(url.into()))),
        "isURL" => Ok(Val::Bool(Url::parse(text).is_ok())),
        "ip" => opaque(cidr::parse_ip(text).map(Opaque::Ip)),
        "isIP" => Ok(Val::Bool(cidr::parse_ip(text).is_ok())),
        "ip.isCanonical" => match cidr::parse_ip(text) {
            Ok(ip) => Ok(Val::Bool(ip.to_string() == text)),
            Err(error) => Err(EvaluationError::new(error)),
        },
        "cidr" => opaque(Cidr::parse(text).map(Opaque::Cidr)),
        "isCIDR" => Ok(Val::Bool(Cidr::parse(text).is_ok())),
        "quantity" => opaque(Quantity::parse(text).map(Opaque::Quantity).map_err(|error| error.to_string())),
        "isQuantity" => Ok(Val::Bool(Quantity::parse(text).is_ok())),
        "semver" => opaque(semver().map(|version| Opaque::Semver(version.into()))),
        "isSemver" => Ok(Val::Bool(semver().is_ok())),
        "format.named" => Ok(match format::Format::named(text) {
            Some(format) => Val::some(Val::Opaque(Opaque::Format(format))),
            None => Val::Optional(None),
        }),
        "jsonpatch.escapeKey" => Ok(Val::text(text.replace('~', "~0").replace('/', "~1"))),
        _ => return None,
    })
}

fn methods<'a>(function: &str, opaque: &Opaque, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    match (opaque, rest) {
        (Opaque::Url(url), []) => url_part(function, url),
        (Opaque::Ip(ip), []) => ip_part(function, *ip),
        (Opaque::Cidr(cidr), rest) => cidr_part(function, cidr, rest),
        (Opaque::Quantity(quantity), rest) => quantity_part(function, *quantity, rest),
        (Opaque::Semver(version), rest) => semver_part(function, version, rest),
        (Opaque::Format(format), [Val::String(text)]) if function == "validate" => {
            let errors = format.check(text);
            let errors = (!errors.is_empty()).then(|| Arc::new(Val::list(errors.into_iter().map(Val::text).collect())));
            Some(Ok(Val::Optional(errors)))
        }
        (Opaque::Question(question), rest) => {
            let args: Option<Vec<&str>> = rest.iter().map(Val::as_str).collect();
            let next = question.step(function, &args?)?;
            Some(Ok(Val::Opaque(Opaque::Question(next.into()))))
        }
        (Opaque::Decision(decision), []) => Some(Ok(match function {
            "allowed" => Val::Bool(decision.allowed),
            "reason" => Val::text(decision.reason.as_str()),
            "errored" => Val::Bool(decision.error.is_some()),
            "error" => Val::text(decision.error.as_deref().unwrap_or_default()),
            _ => return None,
        })),
        _ => None,
    }
}

fn url_part<'a>(function: &str, url: &Url) -> Option<Outcome<'a>> {
    Some(Ok(match function {
        "getScheme" => Val::text(url.scheme()),
        "getHost" => Val::text(url.host()),
        "getHostname" => Val::text(url.hostname()),
        "getPort" => Val::text(url.port()),
        "getEscapedPath" => Val::text(url.escaped_path()),
        "getQuery" => {
            let all = url.query().into_iter();
            let all = all
                .map(|(name, values)| (crate::value::Key::text(&name), Val::list(values.into_iter().map(Val::text).collect())));
            Val::Map(crate::value::Map::owned(all.collect()))
        }
        _ => return None,
    }))
}

fn ip_part<'a>(function: &str, ip: IpAddr) -> Option<Outcome<'a>> {
    let link_local_unicast = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Some(Ok(match function {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_local_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local_unicast),
        "isGlobalUnicast" => {
            let none = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast || broadcast;
            Val::Bool(!none)
        }
        "string" => Val::text(ip.to_string()),
        _ => return None,
    }))
}

fn cidr_part<'a>(function: &str, cidr: &Cidr, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let range = |text: &str| Cidr::parse(text).map_err(EvaluationError::new);
    Some(match (function, rest) {
        ("ip", []) => Ok(Val::Opaque(Opaque::Ip(cidr.network()))),
        ("prefixLength", []) => Ok(Val::Int(i64::from(cidr.bits()))),
        ("masked", []) => Ok(Val::Opaque(Opaque::Cidr(cidr.masked()))),
        ("string", []) => Ok(Val::text(cidr.to_string())),
        ("containsIP", [Val::Opaque(Opaque::Ip(ip))]) => Ok(Val::Bool(cidr.contains(*ip))),
        ("containsIP", [Val::String(text)]) => {
            cidr::parse_ip(text).map(|ip| Val::Bool(cidr.contains(ip))).map_err(EvaluationError::new)
        }
        ("containsCIDR", [Val::Opaque(Opaque::Cidr(other))]) => Ok(Val::Bool(cidr.contains_range(other))),
        ("containsCIDR", [Val::String(text)]) => range(text).map(|other| Val::Bool(cidr.contains_range(&other))),
        _ => return None,
    })
}

fn order<'a>(function: &str, order: Ordering) -> Option<Outcome<'a>> {
    Some(Ok(match function {
        "isGreaterThan" => Val::Bool(order.is_gt()),
        "isLessThan" => Val::Bool(order.is_lt()),
        "compareTo" => Val::Int(order as i64),
        _ => return None,
    }))
}

fn quantity_part<'a>(function: &str, quantity: Quantity, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let sum = |nanos: i128| Val::Opaque(Opaque::Quantity(Quantity::from_nanos(quantity.nanos() + nanos, quantity.format())));
    let whole = |value: i64| i128::from(value) * 1_000_000_000;
    Some(match (function, rest) {
        ("sign", []) => Ok(Val::Int(i64::from(quantity.sign()))),
        ("asApproximateFloat", []) => Ok(Val::Double(quantity.as_f64())),
        ("isInteger", []) => Ok(Val::Bool(quantity.is_integer())),
        ("asInteger", []) if quantity.is_integer() => Ok(Val::Int(quantity.value())),
        ("asInteger", []) => Err(EvaluationError::new("cannot convert value to integer")),
        ("add", [Val::Opaque(Opaque::Quantity(other))]) => Ok(sum(other.nanos())),
        ("add", [Val::Int(value)]) => Ok(sum(whole(*value))),
        ("sub", [Val::Opaque(Opaque::Quantity(other))]) => Ok(sum(-other.nanos())),
        ("sub", [Val::Int(value)]) => Ok(sum(-whole(*value))),
        (_, [Val::Opaque(Opaque::Quantity(other))]) => return order(function, quantity.nanos().cmp(&other.nanos())),
        _ => return None,
    })
}

fn semver_part<'a>(function: &str, version: &Semver, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let number = |value: u64| Ok(Val::Int(i64::try_from(value).unwrap_or(i64::MAX)));
    Some(match (function, rest) {
        ("major", []) => number(version.major),
        ("minor", []) => number(version.minor),
        ("patch", []) => number(version.patch),
        (_, [Val::Opaque(Opaque::Semver(other))]) => return order(function, version.compare(other)),
        _ => return None,
    })
}
