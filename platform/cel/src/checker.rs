//! Types of all parts of an expression, and which functions its calls may mean.
//!
//! Follows `google/cel-go/checker`: type parameters are found by unification, `dyn` fits everything.

mod unify; // Type parameters.

use std::sync::Arc;

use unify::Mapping;

use crate::{
    CompileError, Environment, Value,
    ast::{Comprehension, Expr, Field, Kind},
    evaluator::compile_regex,
    functions,
    types::Ty,
};

/// What is known of an expression's parts, by id.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) expr: Expr,
    pub(crate) types: Vec<Ty>,
    pub(crate) overloads: Vec<Vec<&'static str>>,
    /// The names of the environment that it uses.
    pub(crate) names: Vec<String>,
}

/// Checks an expression.
///
/// # Errors
///
/// All that is wrong, in cel-go's words.
pub(crate) fn check(environment: &Environment, source: &str, mut expr: Expr, ids: usize) -> Result<Checked, CompileError> {
    let mut checker = Checker {
        environment,
        scopes: Vec::new(),
        types: vec![Ty::Error; ids],
        overloads: vec![Vec::new(); ids],
        mapping: Mapping::default(),
        errors: Vec::new(),
        names: Vec::new(),
        mixing: 0,
    };
    checker.check(&mut expr);
    literals(&expr, &mut checker.errors);
    if !checker.errors.is_empty() {
        return Err(CompileError::at(source, checker.errors));
    }
    let types = checker.types.iter().map(|ty| checker.mapping.substitute(ty, true)).collect();
    Ok(Checked { expr, types, overloads: checker.overloads, names: checker.names })
}

struct Checker<'e> {
    environment: &'e Environment,
    scopes: Vec<(Arc<str>, Ty)>,
    types: Vec<Ty>,
    overloads: Vec<Vec<&'static str>>,
    mapping: Mapping,
    errors: Vec<(usize, String)>,
    names: Vec<String>,
    /// How many calls are around that take lists of mixed types: `format`.
    mixing: usize,
}

impl Checker<'_> {
    fn refuse(&mut self, at: usize, message: String) {
        self.errors.push((at, message));
    }

    fn ty(&self, expr: &Expr) -> Ty {
        self.types[expr.id].clone()
    }

    fn check(&mut self, expr: &mut Expr) {
        let ty = match &mut expr.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(_) => self.ident(expr),
            Kind::Select { .. } => self.select(expr),
            Kind::Call { .. } => self.call(expr),
            Kind::List(_) => self.list(expr),
            Kind::Map(_) => self.map(expr),
            Kind::Struct { name, fields } => {
                let name = name.clone();
                self.message(expr.at, &name, fields)
            }
            Kind::Comprehension(inner) => self.comprehension(inner),
        };
        self.types[expr.id] = ty;
    }

    fn local(&self, name: &str) -> Option<Ty> {
        self.scopes.iter().rev().find(|(other, _)| **other == *name).map(|(_, ty)| ty.clone())
    }

    fn ident(&mut self, expr: &mut Expr) -> Ty {
        let Kind::Ident(name) = &expr.kind else { return Ty::Error };
        if let Some(ty) = self.local(name) {
            return ty;
        }
        if let Some(ty) = self.environment.ty(name) {
            if !self.names.iter().any(|other| **other == **name) {
                self.names.push(name.to_string());
            }
            return ty.clone();
        }
        if let Some(ty) = functions::named_type(name) {
            expr.kind = Kind::Literal(Value::Type(name.clone()));
            return Ty::Type(ty.into());
        }
        let message = format!("undeclared reference to '{name}' (in container '')");
        self.refuse(expr.at, message);
        Ty::Error
    }

    /// `a.b.c` as one name: those of types and `authorizer.requestResource`.
    fn qualified(&mut self, expr: &mut Expr) -> Option<Ty> {
        let name = qualified_name(expr)?;
        if self.local(name.split('.').next()?).is_some() {
            return None;
        }
        if name == "authorizer.requestResource" && self.environment.ty("authorizer").is_some() {
            self.names.push("authorizer".to_owned());
            expr.kind = Kind::Ident(name.into());
            return Some(Ty::Opaque("kubernetes.authorization.ResourceCheck"));
        }
        let ty = functions::named_type(&name)?;
        expr.kind = Kind::Literal(Value::Type(name.into()));
        Some(Ty::Type(ty.into()))
    }

    fn select(&mut self, expr: &mut Expr) -> Ty {
        if let Some(ty) = self.qualified(expr) {
            return ty;
        }
        let at = expr.at;
        let Kind::Select { operand, field, test } = &mut expr.kind else { return Ty::Error };
        let (field, test) = (field.clone(), *test);
        self.check(operand);
        let operand = self.ty(operand);
        let ty = self.field(at, &operand, &field, false);
        if test { Ty::Bool } else { self.mapping.substitute(&ty, false) }
    }

    fn field(&mut self, at: usize, operand: &Ty, field: &str, optional: bool) -> Ty {
        let operand = self.mapping.substitute(operand, false);
        let (target, is_optional) = match &operand {
            Ty::Optional(inner) => ((**inner).clone(), true),
            _ => (operand, false),
        };
        let result = match &target {
            Ty::Map(inner) => inner.1.clone(),
            Ty::Object(declaration) => match declaration.member_type(field) {
                Some(ty) => ty,
                None => {
                    self.refuse(at, format!("undefined field '{field}'"));
                    Ty::Error
                }
            },
            // Fields of an opaque type are none.
            Ty::Opaque(_) => {
                self.refuse(at, format!("undefined field '{field}'"));
                Ty::Error
            }
            Ty::Param(_) => {
                self.mapping.assign(&Ty::Dyn, &target);
                Ty::Dyn
            }
            Ty::Dyn | Ty::Error | Ty::Message(_) => Ty::Dyn,
            _ => {
                self.refuse(at, format!("type '{target}' does not support field selection"));
                Ty::Dyn
            }
        };
        if is_optional || optional { Ty::optional(result) } else { result }
    }

    fn call(&mut self, expr: &mut Expr) -> Ty {
        let (at, id) = (expr.at, expr.id);
        let Kind::Call { function, target, args } = &mut expr.kind else { return Ty::Error };
        if &**function == "_?._"
            && let [operand, field] = &mut args[..]
        {
            self.check(operand);
            self.types[field.id] = Ty::String;
            let name = match &field.kind {
                Kind::Literal(Value::String(name)) => name.to_string(),
                _ => String::new(),
            };
            let operand = self.ty(operand);
            let ty = self.field(at, &operand, &name, true);
            self.overloads[id] = vec!["select_optional_field"];
            return self.mapping.substitute(&ty, false);
        }
        let mixes = usize::from(&**function == "format");
        self.mixing += mixes;
        for arg in args.iter_mut() {
            self.check(arg);
        }
        self.mixing -= mixes;
        let types: Vec<Ty> = args.iter().map(|arg| self.ty(arg)).collect();
        if let Some(receiver) = target {
            // `optional.of(x)` is a function with a dot in its name.
            let full = qualified_name(receiver).map(|prefix| format!("{prefix}.{function}"));
            if let Some(full) = full.filter(|full| functions::overloads(full).is_some()) {
                *function = full.into();
                *target = None;
            } else {
                self.check(receiver);
                let mut all = vec![self.ty(receiver)];
                all.extend(types);
                let function = function.clone();
                return self.resolve(at, id, &function, all, true, args);
            }
        }
        let function = function.clone();
        self.resolve(at, id, &function, types, false, args)
    }

    fn resolve(&mut self, at: usize, id: usize, function: &str, types: Vec<Ty>, member: bool, args: &[Expr]) -> Ty {
        let Some(overloads) = functions::overloads(function) else {
            self.refuse(at, format!("undeclared reference to '{function}' (in container '')"));
            return Ty::Error;
        };
        if matches!(function, "_&&_" | "_||_") {
            self.overloads[id] = vec![&overloads[0].id];
            let mut result = Ty::Bool;
            for (ty, arg) in types.iter().zip(args) {
                if !self.mapping.assign(ty, &Ty::Bool) {
                    let found = self.mapping.substitute(ty, true);
                    self.refuse(arg.at, format!("expected type 'bool' but found '{found}'"));
                    result = Ty::Error;
                }
            }
            return result;
        }
        let mut result: Option<Ty> = None;
        for overload in overloads.iter().filter(|overload| overload.member == member) {
            let fresh = self.mapping.fresh(overload.params);
            let wanted: Vec<Ty> = overload.args.iter().map(|ty| unify::renamed(ty, fresh)).collect();
            if !self.mapping.assign_all(&types, &wanted) {
                continue;
            }
            self.overloads[id].push(&overload.id);
            let ty = self.mapping.substitute(&unify::renamed(&overload.result, fresh), false);
            result = Some(match result {
                None => ty,
                Some(result) if result.is_dyn() || unify::exact(&ty, &result) => result,
                Some(_) => Ty::Dyn,
            });
        }
        if let Some(result) = result {
            return result;
        }
        let shown: Vec<String> = types.iter().map(|ty| self.mapping.substitute(ty, true).to_string()).collect();
        let signature = match (member, shown.split_first()) {
            (true, Some((receiver, rest))) => format!("{receiver}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.refuse(at, format!("found no matching overload for '{function}' applied to '{signature}'"));
        Ty::Error
    }

    /// The type of what may be missing; an error if it can't be.
    fn unwrapped(&mut self, expr: &Expr, optional: bool) -> Ty {
        let ty = self.ty(expr);
        if !optional {
            return ty;
        }
        match self.mapping.substitute(&ty, false) {
            Ty::Optional(inner) => (*inner).clone(),
            ty if ty.is_dyn() => ty,
            ty => {
                self.refuse(expr.at, format!("expected type 'optional_type({ty})' but found '{ty}'"));
                ty
            }
        }
    }

    fn join(&mut self, at: usize, before: Option<Ty>, next: Ty) -> Ty {
        let Some(before) = before else { return next };
        if self.mapping.assign(&before, &next) {
            return if unify::less_specific(&before, &next) { before } else { next };
        }
        if self.mixing > 0 {
            return Ty::Dyn;
        }
        let (before, next) = (self.mapping.substitute(&before, true), self.mapping.substitute(&next, true));
        self.refuse(at, format!("expected type '{before}' but found '{next}'"));
        Ty::Error
    }

    fn list(&mut self, expr: &mut Expr) -> Ty {
        let Kind::List(items) = &mut expr.kind else { return Ty::Error };
        let mut ty = None;
        for (item, optional) in items {
            self.check(item);
            let next = self.unwrapped(item, *optional);
            ty = Some(self.join(item.at, ty, next));
        }
        Ty::list(ty.unwrap_or_else(|| self.mapping.variable()))
    }

    fn map(&mut self, expr: &mut Expr) -> Ty {
        let Kind::Map(entries) = &mut expr.kind else { return Ty::Error };
        let (mut key, mut value) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let next = self.ty(&entry.key);
            key = Some(self.join(entry.key.at, key, next));
            self.check(&mut entry.value);
            let next = self.unwrapped(&entry.value, entry.optional);
            value = Some(self.join(entry.value.at, value, next));
        }
        let key = key.unwrap_or_else(|| self.mapping.variable());
        Ty::map(key, value.unwrap_or_else(|| self.mapping.variable()))
    }

    /// `Object{…}` and its parts, and `JSONPatch{…}`: the messages of mutations. Their fields are not checked here.
    fn message(&mut self, at: usize, name: &Arc<str>, fields: &mut [Field]) -> Ty {
        for field in fields.iter_mut() {
            self.check(&mut field.value);
            self.unwrapped(&field.value, field.optional);
        }
        let is_object = &**name == "Object" || name.starts_with("Object.");
        if !is_object && &**name != "JSONPatch" {
            self.refuse(at, format!("undeclared reference to '{name}' (in container '')"));
            return Ty::Error;
        }
        if &**name == "JSONPatch" {
            for field in fields.iter().filter(|field| !matches!(&*field.name, "op" | "path" | "from" | "value")) {
                self.refuse(field.value.at, format!("undefined field '{}'", field.name));
            }
        }
        Ty::Message(name.clone())
    }

    fn comprehension(&mut self, inner: &mut Comprehension) -> Ty {
        self.check(&mut inner.range);
        self.check(&mut inner.init);
        let range = self.mapping.substitute(&self.ty(&inner.range), false);
        let accumulator = self.ty(&inner.init);
        let depth = self.scopes.len();
        self.scopes.push((inner.accumulator.clone(), accumulator.clone()));
        let (first, second) = match &range {
            Ty::List(item) => match inner.variable2 {
                Some(_) => (Ty::Int, (**item).clone()),
                None => ((**item).clone(), Ty::Error),
            },
            Ty::Map(inner) => (inner.0.clone(), inner.1.clone()),
            Ty::Dyn | Ty::Error | Ty::Param(_) => {
                self.mapping.assign(&Ty::Dyn, &range);
                (Ty::Dyn, Ty::Dyn)
            }
            _ => {
                let message =
                    format!("expression of type '{range}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.refuse(inner.range.at, message);
                (Ty::Error, Ty::Error)
            }
        };
        self.scopes.push((inner.variable.clone(), first));
        if let Some(variable) = &inner.variable2 {
            self.scopes.push((variable.clone(), second));
        }
        self.check(&mut inner.condition);
        self.expect(&inner.condition, &Ty::Bool);
        self.check(&mut inner.step);
        self.expect(&inner.step, &accumulator);
        self.scopes.truncate(depth + 1);
        self.check(&mut inner.result);
        self.scopes.truncate(depth);
        self.mapping.substitute(&self.ty(&inner.result), false)
    }

    fn expect(&mut self, expr: &Expr, wanted: &Ty) {
        let found = self.ty(expr);
        if !self.mapping.assign(wanted, &found) {
            let (wanted, found) = (self.mapping.substitute(wanted, true), self.mapping.substitute(&found, true));
            self.refuse(expr.at, format!("expected type '{wanted}' but found '{found}'"));
        }
    }
}

/// `a.b.c`, if the expression is names and dots.
fn qualified_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", qualified_name(operand)?)),
        _ => None,
    }
}

fn literal(value: &Value) -> Ty {
    match value {
        Value::Bool(_) => Ty::Bool,
        Value::Int(_) => Ty::Int,
        Value::Uint(_) => Ty::Uint,
        Value::Double(_) => Ty::Double,
        Value::String(_) => Ty::String,
        Value::Bytes(_) => Ty::Bytes,
        Value::Null => Ty::Null,
        _ => Ty::Dyn,
    }
}

/// Literals that functions will not take: `cel.ValidateDurationLiterals` and its like.
fn literals(expr: &Expr, errors: &mut Vec<(usize, String)>) {
    if let Kind::Call { function, target, args } = &expr.kind {
        let argument = match (&**function, target, &args[..]) {
            ("duration" | "timestamp", None, [argument]) => Some(argument),
            ("matches", _, [.., argument]) => Some(argument),
            _ => None,
        };
        if let Some(argument) = argument
            && let Kind::Literal(Value::String(text)) = &argument.kind
        {
            let valid = match &**function {
                "duration" => crate::time::duration(text).is_some(),
                "timestamp" => crate::time::timestamp(text).is_some(),
                _ => compile_regex(text).is_ok(),
            };
            if !valid {
                errors.push((argument.at, format!("invalid {function} argument")));
            }
        }
    }
    for child in children(expr) {
        literals(child, errors);
    }
}

/// The parts of an expression.
pub(crate) fn children(expr: &Expr) -> Vec<&Expr> {
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
        Kind::Select { operand, .. } => vec![operand],
        Kind::Call { target, args, .. } => target.iter().map(|target| &**target).chain(args).collect(),
        Kind::List(items) => items.iter().map(|(item, _)| item).collect(),
        Kind::Map(entries) => entries.iter().flat_map(|entry| [&entry.key, &entry.value]).collect(),
        Kind::Struct { fields, .. } => fields.iter().map(|field| &field.value).collect(),
        Kind::Comprehension(inner) => vec![&inner.range, &inner.init, &inner.condition, &inner.step, &inner.result],
    }
}
