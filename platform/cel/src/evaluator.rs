//! The value of an expression, and what finding it costs.
//!
//! Costs are counted as `google/cel-go/interpreter/runtimecost.go` counts them: one for a name, one for each member asked for,
//! and for each call what [`cost`] says.

mod calls; // Functions by name,
mod cost; // what they cost,
mod members; // members of values,
pub(crate) mod operators; // operators,
mod regexes; // regular expressions.

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use calls::call;
pub(crate) use regexes::{Regexes, compile as compile_regex};

use crate::{
    Bindings, Budget, EvaluationError, PER_CALL_LIMIT, Program, Val,
    ast::{Comprehension, Expr, Field, Kind},
    bindings::{Bound, Lazy},
    library::authorizer::Question,
    value::{Key, Map, Opaque},
};

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

/// The list part of `value in [constants]`, which cel-go looks up in a set.
pub(crate) const IN_CONSTANTS: &str = "@in_constants";

/// Evaluates a program.
///
/// # Errors
///
/// Those of the expression, or that it cost too much.
pub(crate) fn evaluate<'a>(program: &Program, bindings: &Bindings<'a>, budget: &mut Budget) -> Outcome<'a> {
    run(program, bindings, budget, usize::MAX)
}

/// `visible` is how many lazy members may be used.
fn run<'a>(program: &Program, bindings: &Bindings<'a>, budget: &mut Budget, visible: usize) -> Outcome<'a> {
    let mut evaluator = Evaluator { bindings, budget, visible, regexes: program.regexes(), cost: 0, scopes: Vec::new() };
    let outcome = evaluator.eval(program.runtime());
    let cost = evaluator.cost;
    budget.spend(cost)?;
    outcome
}

struct Evaluator<'e, 'a> {
    bindings: &'e Bindings<'a>,
    budget: &'e mut Budget,
    visible: usize,
    regexes: &'e Regexes,
    cost: u64,
    scopes: Vec<(Arc<str>, Outcome<'a>)>,
}

impl<'a> Evaluator<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvaluationError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > PER_CALL_LIMIT { Err(EvaluationError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, expr: &Expr) -> Outcome<'a> {
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Ident(name) => self.name(name),
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call { function, target, args } => self.call(function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(_) => self.map(expr),
            Kind::Struct { name, fields } => self.message(name, fields),
            Kind::Comprehension(inner) => self.comprehension(inner),
        }
    }

    #[inline(never)]
    fn name(&mut self, name: &Arc<str>) -> Outcome<'a> {
        self.charge(1)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(other, _)| other == name) {
            return value.clone();
        }
        match self.bindings.get(name) {
            Some(Bound::Value(value)) => value.clone(),
            Some(Bound::Lazy(lazy)) => self.all_lazy(lazy),
            None => self.authority(name),
        }
    }

    fn authority(&self, name: &str) -> Outcome<'a> {
        let missing = || EvaluationError::new(format!("no such attribute(s): {name}"));
        let question = match (name, self.bindings.authority()) {
            ("authorizer", Some(_)) => Question::new(),
            ("authorizer.requestResource", Some(authorizer)) => {
                Question::of_resource(authorizer.request_resource().ok_or_else(missing)?)
            }
            _ => return Err(missing()),
        };
        Ok(Val::Opaque(Opaque::Question(question.into())))
    }

    /// One member of what is evaluated on first use.
    fn lazy(&mut self, lazy: &Lazy<'a>, name: &str) -> Outcome<'a> {
        let found = lazy.members.iter().take(self.visible).position(|(other, _)| other == name);
        let Some(at) = found else { return Err(members::no_such_key(name)) };
        if let Some(value) = lazy.values[at].get() {
            return value.clone();
        }
        let value = run(&lazy.members[at].1, self.bindings, self.budget, at).map_err(|error| match error {
            EvaluationError::Failed(why) => {
                EvaluationError::new(format!("composited variable {name:?} fails to evaluate: {why}"))
            }
            error => error,
        });
        if !matches!(&value, Err(error) if error.is_out_of_cost()) {
            let _ = lazy.values[at].set(value.clone());
        }
        value
    }

    fn all_lazy(&mut self, lazy: &Lazy<'a>) -> Outcome<'a> {
        let mut all = BTreeMap::new();
        for (name, _) in lazy.members.iter().take(self.visible) {
            all.insert(Key::text(name), self.lazy(lazy, name)?);
        }
        Ok(Val::Map(Map::owned(all)))
    }

    #[inline(never)]
    fn select(&mut self, operand: &Expr, field: &Arc<str>, test: bool) -> Outcome<'a> {
        if let Kind::Ident(name) = &operand.kind
            && !self.scopes.iter().any(|(other, _)| other == name)
            && let Some(Bound::Lazy(lazy)) = self.bindings.get(name)
        {
            self.charge(if test { 1 } else { 2 })?;
            if test {
                return Ok(Val::Bool(lazy.members.iter().take(self.visible).any(|(other, _)| **other == **field)));
            }
            return self.lazy(lazy, field);
        }
        let value = self.eval(operand)?;
        self.charge(u64::from(!is_attribute(operand)) + u64::from(!test))?;
        if test { members::has(&value, field).map(Val::Bool) } else { members::field(&value, field) }
    }

    #[inline(never)]
    fn call(&mut self, function: &str, target: Option<&Expr>, args: &[Expr]) -> Outcome<'a> {
        match (function, args) {
            ("_&&_", [a, b]) => self.logical(a, b, false),
            ("_||_", [a, b]) => self.logical(a, b, true),
            ("_?_:_", [condition, yes, no]) => self.ternary(condition, yes, no),
            ("@not_strictly_false", [a]) => self.not_strictly_false(a),
            ("_[_]" | "_?._" | "_[?_]", [operand, index]) => self.index(function, operand, index),
            (IN_CONSTANTS, [a, list]) => self.in_constants(a, list),
            ("_+_", [a, b]) => match &a.kind {
                Kind::Ident(name) if &**name == crate::ast::ACCUMULATOR => self.append(name, b),
                _ => self.plain(function, target, args),
            },
            ("cel.@mapInsert", [a, ..]) => match &a.kind {
                Kind::Ident(name) => self.insert(name, &args[1..]),
                _ => Err(EvaluationError::overload()),
            },
            ("orValue" | "or", [other]) => match target {
                Some(target) => self.optional_or(function, target, other),
                None => Err(EvaluationError::overload()),
            },
            _ => self.plain(function, target, args),
        }
    }

    /// A function that needs all of its arguments.
    #[inline(never)]
    fn plain(&mut self, function: &str, target: Option<&Expr>, args: &[Expr]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            match self.eval(arg) {
                Ok(value) => values.push(value),
                Err(error) => {
                    // A call costs something even when it can't be made.
                    self.charge(1)?;
                    return Err(error);
                }
            }
        }
        // What costs more the longer its arguments are is paid for before the work is done.
        self.charge(cost::before(function, target.is_some(), &values)?)?;
        let result = if function == "check" { self.check(&values) } else { call(function, values.clone(), self.regexes) }?;
        self.charge(cost::after(function, &result))?;
        Ok(result)
    }

    fn check(&self, values: &[Val<'a>]) -> Outcome<'a> {
        let [Val::Opaque(Opaque::Question(question)), Val::String(verb)] = values else {
            return Err(EvaluationError::overload());
        };
        let Some(authorizer) = self.bindings.authority() else {
            return Err(EvaluationError::new("no such attribute(s): authorizer"));
        };
        let mut attributes = question.attributes.clone();
        attributes.verb = verb.to_string();
        Ok(Val::Opaque(Opaque::Decision(authorizer.authorize(&attributes).into())))
    }

    #[inline(never)]
    fn logical(&mut self, a: &Expr, b: &Expr, decisive: bool) -> Outcome<'a> {
        let left = self.eval(a);
        match &left {
            Ok(Val::Bool(value)) if *value == decisive => return left,
            Err(error) if !error.is_absorbable() => return left,
            _ => {}
        }
        let right = self.eval(b);
        match &right {
            Ok(Val::Bool(value)) if *value == decisive => return right,
            Err(error) if !error.is_absorbable() => return right,
            _ => {}
        }
        match (left?, right?) {
            (Val::Bool(_), Val::Bool(_)) => Ok(Val::Bool(!decisive)),
            _ => Err(EvaluationError::overload()),
        }
    }

    #[inline(never)]
    fn ternary(&mut self, condition: &Expr, yes: &Expr, no: &Expr) -> Outcome<'a> {
        let Val::Bool(condition) = self.eval(condition)? else { return Err(EvaluationError::overload()) };
        let branch = if condition { yes } else { no };
        let value = self.eval(branch)?;
        // The name at a branch's start is found with the choice.
        if is_attribute(branch) && !is_ternary(branch) {
            self.cost = self.cost.saturating_sub(1);
        }
        Ok(value)
    }

    #[inline(never)]
    fn not_strictly_false(&mut self, a: &Expr) -> Outcome<'a> {
        let value = self.eval(a);
        self.charge(1)?;
        match value {
            Err(error) if !error.is_absorbable() => Err(error),
            Ok(Val::Bool(value)) => Ok(Val::Bool(value)),
            _ => Ok(Val::Bool(true)),
        }
    }

    #[inline(never)]
    fn index(&mut self, function: &str, operand: &Expr, index: &Expr) -> Outcome<'a> {
        let value = self.eval(operand)?;
        let key = self.eval(index)?;
        self.charge(u64::from(!is_attribute(operand)) + u64::from(!is_attribute(index)))?;
        match function {
            "_[_]" => members::index(&value, &key),
            _ => members::optional_index(&value, &key),
        }
    }

    #[inline(never)]
    fn in_constants(&mut self, a: &Expr, list: &Expr) -> Outcome<'a> {
        let value = self.eval(a)?;
        let Kind::Literal(Val::List(list)) = &list.kind else { return Err(EvaluationError::overload()) };
        operators::in_list(&value, list).map(Val::Bool)
    }

    /// `@result + more`, without copying what is gathered so far.
    #[inline(never)]
    fn append(&mut self, accumulator: &Arc<str>, more: &Expr) -> Outcome<'a> {
        self.charge(1)?;
        let more = self.eval(more)?;
        self.charge(1)?;
        match (self.take(accumulator)?, more) {
            (Val::List(gathered), Val::List(more)) => Ok(Val::List(gathered.extend(more.items()?)?)),
            (gathered, more) => operators::add(&gathered, &more),
        }
    }

    #[inline(never)]
    fn insert(&mut self, accumulator: &Arc<str>, args: &[Expr]) -> Outcome<'a> {
        self.charge(1)?;
        let mut entries = Vec::new();
        match args {
            [key, value] => entries.push((self.eval(key)?, self.eval(value)?)),
            [map] => match self.eval(map)? {
                Val::Map(map) => entries = map.entries()?,
                _ => return Err(EvaluationError::overload()),
            },
            _ => return Err(EvaluationError::overload()),
        }
        self.charge(1)?;
        let Val::Map(mut gathered) = self.take(accumulator)? else { return Err(EvaluationError::overload()) };
        for (key, value) in entries {
            let Some(entry) = Key::new(&key) else { return Err(EvaluationError::new("unsupported key type")) };
            let shown = members::shown(&key);
            let refuse = || EvaluationError::new(format!("insert failed: key {shown} already exists"));
            gathered = gathered.insert(entry, value).ok_or_else(refuse)?;
        }
        Ok(Val::Map(gathered))
    }

    /// What a comprehension has gathered; its next step puts something in its place.
    fn take(&mut self, accumulator: &Arc<str>) -> Outcome<'a> {
        match self.scopes.iter_mut().rev().find(|(other, _)| other == accumulator) {
            Some((_, value)) => std::mem::replace(value, Ok(Val::Null)),
            None => Err(EvaluationError::overload()),
        }
    }

    #[inline(never)]
    fn optional_or(&mut self, function: &str, target: &Expr, other: &Expr) -> Outcome<'a> {
        let Val::Optional(value) = self.eval(target)? else { return Err(EvaluationError::overload()) };
        match (value, function) {
            (Some(value), "or") => Ok(Val::Optional(Some(value))),
            (Some(value), _) => Ok((*value).clone()),
            (None, _) => self.eval(other),
        }
    }

    #[inline(never)]
    fn list(&mut self, items: &[(Expr, bool)]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (value, false) => values.push(value),
                (Val::Optional(value), true) => values.extend(value.map(|value| (*value).clone())),
                (value, true) => return Err(members::not_optional(&value)),
            }
        }
        self.charge(10)?;
        Ok(Val::list(values))
    }

    #[inline(never)]
    fn map(&mut self, expr: &Expr) -> Outcome<'a> {
        let Kind::Map(entries) = &expr.kind else { return Err(EvaluationError::overload()) };
        let mut members = BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let value = match (self.eval(&entry.value)?, entry.optional) {
                (value, false) => value,
                (Val::Optional(Some(value)), true) => (*value).clone(),
                (Val::Optional(None), true) => continue,
                (value, true) => return Err(members::not_optional(&value)),
            };
            let Some(name) = Key::new(&key) else { return Err(EvaluationError::new("unsupported key type")) };
            if members.insert(name, value).is_some() {
                return Err(EvaluationError::new(format!("Failed with repeated key {}", members::shown(&key))));
            }
        }
        self.charge(30)?;
        Ok(Val::Map(Map::owned(members)))
    }

    #[inline(never)]
    fn message(&mut self, name: &Arc<str>, fields: &[Field]) -> Outcome<'a> {
        let mut members = BTreeMap::new();
        for field in fields {
            let value = match (self.eval(&field.value)?, field.optional) {
                (value, false) => value,
                (Val::Optional(Some(value)), true) => (*value).clone(),
                (Val::Optional(None), true) => continue,
                (value, true) => return Err(members::not_optional(&value)),
            };
            members.insert(Key::text(&field.name), value);
        }
        self.charge(40)?;
        Ok(Val::Map(Map::message(name.clone(), members)))
    }

    #[inline(never)]
    fn comprehension(&mut self, inner: &Comprehension) -> Outcome<'a> {
        if inner.bind {
            let value = self.eval(&inner.init);
            if matches!(&value, Err(error) if error.is_out_of_cost()) {
                return value;
            }
            self.scopes.push((inner.accumulator.clone(), value));
            let result = self.eval(&inner.result);
            self.scopes.pop();
            return result;
        }
        let elements = Elements::new(self.eval(&inner.range)?, inner.variable2.is_some())?;
        let start = self.eval(&inner.init);
        let depth = self.scopes.len();
        self.scopes.push((inner.accumulator.clone(), start));
        let outcome = self.fold(inner, &elements, depth);
        self.scopes.truncate(depth + 1);
        let result = outcome.and_then(|()| self.eval(&inner.result));
        self.scopes.truncate(depth);
        result
    }

    fn fold(&mut self, inner: &Comprehension, elements: &Elements<'a>, depth: usize) -> Result<(), EvaluationError> {
        for at in 0..elements.len() {
            let Some((first, second)) = elements.get(at) else { break };
            self.scopes.push((inner.variable.clone(), first));
            if let (Some(variable), Some(second)) = (&inner.variable2, second) {
                self.scopes.push((variable.clone(), second));
            }
            let more = self.eval(&inner.condition);
            match more {
                Ok(Val::Bool(true)) => {}
                Err(error) if error.is_out_of_cost() => return Err(error),
                _ => break,
            }
            let step = self.eval(&inner.step);
            self.scopes.truncate(depth + 1);
            if let Err(error) = &step
                && error.is_out_of_cost()
            {
                return Err(error.clone());
            }
            self.scopes[depth].1 = step;
        }
        Ok(())
    }
}

/// What a comprehension goes through.
enum Elements<'a> {
    List(crate::value::List<'a>, bool),
    Keys(Vec<Val<'a>>),
    Entries(Vec<(Val<'a>, Val<'a>)>),
}

impl<'a> Elements<'a> {
    fn new(range: Val<'a>, two: bool) -> Result<Self, EvaluationError> {
        match range {
            Val::List(list) => Ok(Self::List(list, two)),
            Val::Map(map) if two => Ok(Self::Entries(map.entries()?)),
            Val::Map(map) => Ok(Self::Keys(map.keys())),
            _ => Err(EvaluationError::overload()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::List(list, _) => list.len(),
            Self::Keys(keys) => keys.len(),
            Self::Entries(entries) => entries.len(),
        }
    }

    fn get(&self, at: usize) -> Option<(Outcome<'a>, Option<Outcome<'a>>)> {
        match self {
            Self::List(list, false) => Some((list.get(at)?, None)),
            Self::List(list, true) => Some((Ok(Val::Int(i64::try_from(at).ok()?)), Some(list.get(at)?))),
            Self::Keys(keys) => Some((Ok(keys.get(at)?.clone()), None)),
            Self::Entries(entries) => {
                let (key, value) = entries.get(at)?.clone();
                Some((Ok(key), Some(Ok(value))))
            }
        }
    }
}

/// What cel-go plans as an attribute: a name and what is asked of it.
fn is_attribute(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Ident(_) | Kind::Select { test: false, .. } => true,
        Kind::Call { function, .. } => matches!(&**function, "_[_]" | "_?._" | "_[?_]" | "_?_:_"),
        _ => false,
    }
}

fn is_ternary(expr: &Expr) -> bool {
    matches!(&expr.kind, Kind::Call { function, .. } if &**function == "_?_:_")
}
