//! Lists and sets: `google/cel-go/ext/{lists,sets}.go` and `apiserver/pkg/cel/library/lists.go`.

use std::cmp::Ordering;

use crate::{
    EvaluationError, Val,
    evaluator::operators,
    value::{List, MAX_ITEMS, compare, equal},
};

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

/// A function of lists; none if it is something else.
pub(crate) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    Some(match (function, args) {
        ("lists.range", [Val::Int(count)]) => Ok(Val::list((0..*count).map(Val::Int).collect())),
        ("sets.contains", [Val::List(a), Val::List(b)]) => contains(a, b).map(Val::Bool),
        ("sets.equivalent", [Val::List(a), Val::List(b)]) => contains(a, b).and_then(|all| Ok(Val::Bool(all && contains(b, a)?))),
        ("sets.intersects", [Val::List(a), Val::List(b)]) => intersects(a, b).map(Val::Bool),
        ("includes", [Val::List(list), value]) => operators::in_list(value, list).map(Val::Bool),
        ("includes", [a, b]) => equal(a, b).map(Val::Bool),
        (_, [Val::List(list), rest @ ..]) => return of_list(function, list, rest),
        _ => return None,
    })
}

fn contains<'v>(list: &List<'v>, other: &List<'v>) -> Result<bool, EvaluationError> {
    for item in other.iter() {
        if !operators::in_list(&item?, list)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects<'v>(list: &List<'v>, other: &List<'v>) -> Result<bool, EvaluationError> {
    for item in list.iter() {
        if operators::in_list(&item?, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn of_list<'a>(function: &str, list: &List<'a>, rest: &[Val<'a>]) -> Option<Outcome<'a>> {
    let items = || list.items();
    Some(match (function, rest) {
        ("first", []) => match list.get(0) {
            Some(item) => item.map(Val::some),
            None => Ok(Val::Optional(None)),
        },
        ("last", []) => match list.len().checked_sub(1).and_then(|at| list.get(at)) {
            Some(item) => item.map(Val::some),
            None => Ok(Val::Optional(None)),
        },
        ("isSorted", []) => items().and_then(|items| is_sorted(&items)),
        ("sum", []) => items().and_then(|items| sum(&items)),
        ("max", []) => items().and_then(|items| extreme("max", items, Ordering::Less)),
        ("min", []) => items().and_then(|items| extreme("min", items, Ordering::Greater)),
        ("indexOf", [value]) => items().and_then(|items| place(&items, value, false)),
        ("lastIndexOf", [value]) => items().and_then(|items| place(&items, value, true)),
        ("slice", [Val::Int(from), Val::Int(to)]) => slice(list, *from, *to),
        ("flatten", []) => items().and_then(|items| flatten(items, 1)).map(Val::list),
        ("flatten", [Val::Int(depth)]) if *depth < 0 => Err(EvaluationError::new("level must be non-negative")),
        ("flatten", [Val::Int(depth)]) => items().and_then(|items| flatten(items, *depth)).map(Val::list),
        ("reverse", []) => items().map(|items| Val::list(items.into_iter().rev().collect())),
        ("distinct", []) => items().and_then(distinct),
        ("sort", []) => items().and_then(|items| sort(items.clone(), items)),
        ("@sortByAssociatedKeys", [Val::List(keys)]) => items().and_then(|items| sort(items, keys.items()?)),
        _ => return None,
    })
}

fn is_sorted<'a>(items: &[Val<'a>]) -> Outcome<'a> {
    for pair in items.windows(2) {
        match compare(&pair[0], &pair[1]) {
            Some(Ordering::Greater) => return Ok(Val::Bool(false)),
            Some(_) => {}
            None => return Err(EvaluationError::overload()),
        }
    }
    Ok(Val::Bool(true))
}

fn sum<'a>(items: &[Val<'a>]) -> Outcome<'a> {
    let zero = match items.first() {
        None | Some(Val::Int(_)) => Val::Int(0),
        Some(Val::Uint(_)) => Val::Uint(0),
        Some(Val::Double(_)) => Val::Double(0.0),
        Some(Val::Duration(_)) => Val::Duration(0),
        _ => return Err(EvaluationError::overload()),
    };
    items.iter().try_fold(zero, |sum, item| operators::add(&sum, item))
}

fn extreme<'a>(name: &str, items: Vec<Val<'a>>, worse: Ordering) -> Outcome<'a> {
    let mut items = items.into_iter();
    let mut best = items.next().ok_or_else(|| EvaluationError::new(format!("{name} called on empty list")))?;
    for item in items {
        let order = compare(&best, &item).ok_or_else(EvaluationError::overload)?;
        if order == worse {
            best = item;
        }
    }
    Ok(best)
}

fn place<'a>(items: &[Val<'a>], value: &Val<'a>, last: bool) -> Outcome<'a> {
    let mut found = -1;
    for (at, item) in (0_i64..).zip(items) {
        if equal(item, value)? {
            found = at;
            if !last {
                break;
            }
        }
    }
    Ok(Val::Int(found))
}

fn slice<'a>(list: &List<'a>, from: i64, to: i64) -> Outcome<'a> {
    let refuse = |why: String| EvaluationError::new(format!("cannot slice({from}, {to}), {why}"));
    let (Ok(start), Ok(end)) = (usize::try_from(from), usize::try_from(to)) else {
        return Err(refuse("negative indexes not supported".to_owned()));
    };
    if start > end {
        return Err(refuse("start index must be less than or equal to end index".to_owned()));
    }
    if end > list.len() {
        return Err(refuse(format!("list is length {}", list.len())));
    }
    let part: Result<Vec<Val<'a>>, EvaluationError> = (start..end).filter_map(|at| list.get(at)).collect();
    part.map(Val::list)
}

fn flatten(items: Vec<Val<'_>>, depth: i64) -> Result<Vec<Val<'_>>, EvaluationError> {
    let mut all = Vec::new();
    for item in items {
        match item {
            Val::List(inner) if depth > 0 => all.extend(flatten(inner.items()?, depth - 1)?),
            item => all.push(item),
        }
        if all.len() > MAX_ITEMS {
            return Err(EvaluationError::CostLimit);
        }
    }
    Ok(all)
}

fn distinct(items: Vec<Val<'_>>) -> Outcome<'_> {
    let mut all: Vec<Val<'_>> = Vec::new();
    for item in items {
        let mut seen = false;
        for other in &all {
            seen = seen || equal(&item, other)?;
        }
        if !seen {
            all.push(item);
        }
    }
    Ok(Val::list(all))
}

fn sort<'a>(items: Vec<Val<'a>>, keys: Vec<Val<'a>>) -> Outcome<'a> {
    if let Some(first) = keys.first() {
        if compare(first, first).is_none() {
            return Err(EvaluationError::new("list elements must be comparable"));
        }
        if keys.iter().any(|key| key.type_name() != first.type_name()) {
            return Err(EvaluationError::new("list elements must have the same type"));
        }
    }
    let mut pairs: Vec<(Val<'a>, Val<'a>)> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|(a, _), (b, _)| compare(a, b).unwrap_or(Ordering::Equal));
    Ok(Val::list(pairs.into_iter().map(|(_, item)| item).collect()))
}
