//! What is constant, evaluated once: literal lists and maps, conversions of literals (`decOptimize` of cel-go).
//!
//! What is folded costs nothing when the program runs, as upstream.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Value,
    ast::{Expr, Kind},
    evaluator::{IN_CONSTANTS, Regexes, call, compile_regex},
    value::{Key, Map},
};

/// Folds an expression, and gathers the regular expressions that it has.
pub(crate) fn fold(expr: &mut Expr, regexes: &mut Regexes) {
    match &mut expr.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => fold(operand, regexes),
        Kind::Call { target, args, .. } => {
            target.iter_mut().for_each(|target| fold(target, regexes));
            args.iter_mut().for_each(|arg| fold(arg, regexes));
        }
        Kind::List(items) => items.iter_mut().for_each(|(item, _)| fold(item, regexes)),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
            fold(&mut entry.key, regexes);
            fold(&mut entry.value, regexes);
        }),
        Kind::Struct { fields, .. } => fields.iter_mut().for_each(|field| fold(&mut field.value, regexes)),
        Kind::Comprehension(inner) => {
            for part in [&mut inner.range, &mut inner.init, &mut inner.condition, &mut inner.step, &mut inner.result] {
                fold(part, regexes);
            }
        }
    }
    if let Some(value) = constant(expr, regexes) {
        expr.kind = Kind::Literal(value);
        return;
    }
    if let Kind::Call { function, target: None, args } = &mut expr.kind
        && &**function == "@in"
        && let [_, list] = &args[..]
        && let Kind::Literal(Value::List(list)) = &list.kind
    {
        if list.is_empty() {
            expr.kind = Kind::Literal(Value::Bool(false));
        } else if list.iter().all(|item| item.is_ok_and(|item| is_plain(&item))) {
            *function = Arc::from(IN_CONSTANTS);
        }
    }
}

/// What cel-go looks up in a set.
fn is_plain(value: &Value) -> bool {
    matches!(value, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_))
}

fn literal(expr: &Expr) -> Option<Value> {
    match &expr.kind {
        Kind::Literal(value) => Some(value.clone()),
        _ => None,
    }
}

fn constant(expr: &Expr, regexes: &mut Regexes) -> Option<Value> {
    match &expr.kind {
        Kind::List(items) => {
            let items = items.iter().map(|(item, optional)| literal(item).filter(|_| !optional));
            Some(Value::list(items.collect::<Option<_>>()?))
        }
        Kind::Map(entries) => {
            let mut members = BTreeMap::new();
            for entry in entries {
                if entry.optional {
                    return None;
                }
                let before = members.insert(Key::new(&literal(&entry.key)?)?, literal(&entry.value)?);
                if before.is_some() {
                    return None; // An error once it runs.
                }
            }
            Some(Value::Map(Map::owned(members)))
        }
        Kind::Call { function, target, args } => {
            if matches!(&**function, "matches" | "find" | "findAll")
                && let Some(Value::String(pattern)) = args.iter().find_map(literal)
                && let Ok(regex) = compile_regex(&pattern)
            {
                regexes.insert(pattern.to_string(), regex);
            }
            let converts = matches!(
                &**function,
                "bool" | "bytes" | "double" | "dyn" | "duration" | "int" | "string" | "timestamp" | "type" | "uint"
            );
            let [argument] = &args[..] else { return None };
            if !converts || target.is_some() {
                return None;
            }
            call(function, vec![literal(argument)?], regexes).ok()
        }
        _ => None,
    }
}
