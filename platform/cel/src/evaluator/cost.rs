//! What calls cost.
//!
//! `google/cel-go/interpreter/runtimecost.go` (`costCall`), `google/cel-go/ext/{lists,sets}.go` and
//! `staging/src/k8s.io/apiserver/pkg/cel/library/cost.go` (`CallCost`).

use crate::{
    EvaluationError, PER_CALL_LIMIT, Val,
    value::{Key, Opaque},
};

/// A number of units for each so many characters.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "saturates")]
pub(crate) fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// What a call costs, as far as its arguments tell. A method's receiver is the first of them.
///
/// # Errors
///
/// When a part of an object does not fit its schema.
pub(super) fn before(function: &str, member: bool, args: &[Val<'_>]) -> Result<u64, EvaluationError> {
    let size = |at: usize| args.get(at).map_or(1, Val::size);
    let scan = |at: usize| scaled(size(at), 0.1);
    let regex = |text: usize, pattern: u64| scaled(text as u64 + 1, 0.1).saturating_mul(scaled(pattern, 0.25));
    let text_size = |at: usize| usize::try_from(size(at)).unwrap_or(usize::MAX - 1);
    Ok(match function {
        "startsWith" | "endsWith" | "strings.quote" | "format" if args.len() < 3 => scan(0),
        "string" if matches!(args, [Val::Bytes(_)]) => scan(0),
        "bytes" if matches!(args, [Val::String(_)]) => scan(0),
        "@in" => match args {
            [_, Val::List(list)] => list.len() as u64,
            _ => 1,
        },
        "_==_" | "_!=_" => match args {
            [Val::Opaque(_), _] => 1,
            _ => scaled(size(0).min(size(1)), 0.1),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" => match args {
            [Val::String(_) | Val::Bytes(_), _] => scaled(size(0).min(size(1)), 0.1),
            _ => 1,
        },
        "_+_" => match args {
            [Val::String(_) | Val::Bytes(_), _] => scaled(size(0).saturating_add(size(1)), 0.1),
            _ => 1,
        },
        "matches" | "find" | "findAll" => regex(text_size(0), size(1)),
        "contains" => scan(0).saturating_mul(scan(1)),
        "check" => 350_000,
        "fieldSelector" | "labelSelector" => 10 + scan(1) + scaled(scaled(size(1), 0.5), 50.0),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => match args.first() {
            Some(value) => traversal(value)?,
            None => 0,
        },
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => scan(0),
        "replace" | "split" | "ip.isCanonical" => scaled(size(0), 0.2),
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => scan(0),
        "ip" if !member => scan(0),
        "containsIP" | "containsCIDR" => {
            let compare = scaled(size(0) * 2, 0.1);
            let mask = if function == "containsCIDR" { scan(0) + 1 } else { 0 };
            let parse = if matches!(args.get(1), Some(Val::String(_))) { scan(1) } else { 0 };
            compare + mask + parse
        }
        "validate" => match args {
            [Val::Opaque(Opaque::Format(format)), ..] => regex(text_size(1), format.regex_size),
            _ => 1,
        },
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)).saturating_add(1),
        "sets.equivalent" => size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1),
        "lists.range" => match args {
            [Val::Int(count)] => u64::try_from(*count).unwrap_or(0).saturating_add(11),
            _ => 1,
        },
        // The rest once it is known how many characters there are.
        "join" => joined(args),
        "optional.unwrap" | "unwrapOpt" => size(0),
        "slice" => match args {
            [_, Val::Int(from), Val::Int(to)] => u64::try_from(to.saturating_sub(*from)).unwrap_or(0).saturating_add(11),
            _ => 1,
        },
        "reverse" => size(0).saturating_add(11),
        "flatten" => {
            let depth = match args {
                [_, Val::Int(depth)] => u64::try_from(*depth).unwrap_or(0),
                _ => 1,
            };
            size(0).saturating_mul(depth).saturating_add(11)
        }
        "distinct" | "sort" => compared(args.first()),
        "@sortByAssociatedKeys" => compared(args.get(1)),
        _ => 1,
    })
}

/// What a call costs more, by its result.
pub(super) fn after(function: &str, result: &Val<'_>) -> u64 {
    if function == "join" { scaled(result.size(), 0.2) } else { 0 }
}

/// Nothing, unless what is joined would cost too much in any case.
fn joined(args: &[Val<'_>]) -> u64 {
    let Some(Val::List(list)) = args.first() else { return 1 };
    let between = args.get(1).and_then(Val::as_str).map_or(0, str::len);
    let mut bytes = list.len().saturating_mul(between);
    for item in list.iter() {
        bytes = bytes.saturating_add(item.as_ref().ok().and_then(Val::as_str).map_or(0, str::len));
    }
    // A character has at most four bytes.
    let least = scaled(bytes as u64 / 4, 0.2);
    if least > PER_CALL_LIMIT { least } else { 0 }
}

/// Comparing every item of a list with every other.
fn compared(list: Option<&Val<'_>>) -> u64 {
    let Some(Val::List(list)) = list else { return 1 };
    let pairs = (list.len() as u64).saturating_mul(list.len() as u64);
    let factor = match list.get(0) {
        Some(Ok(Val::String(_) | Val::Bytes(_))) => 2.1,
        _ => 2.0,
    };
    scaled(pairs, factor).saturating_add(11)
}

/// Going through a value once.
fn traversal(value: &Val<'_>) -> Result<u64, EvaluationError> {
    Ok(match value {
        Val::String(text) => text.len() as u64 / 10,
        Val::Bytes(bytes) => bytes.len() as u64 / 10,
        Val::List(list) => {
            let mut sum: u64 = 0;
            for item in list.iter() {
                sum = sum.saturating_add(traversal(&item?)?);
            }
            sum
        }
        Val::Map(map) => {
            let mut sum: u64 = 0;
            for key in map.keys() {
                if let Some(value) = Key::new(&key).and_then(|key| map.get(&key)) {
                    sum = sum.saturating_add(traversal(&key)?).saturating_add(traversal(&value?)?);
                }
            }
            sum
        }
        _ => 1,
    })
}
