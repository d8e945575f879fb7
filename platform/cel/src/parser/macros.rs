//! Macros, expanded as cel-go expands them: costs count the expansion's steps.

use std::sync::Arc;

use super::Parser;
use crate::{
    Value,
    ast::{ACCUMULATOR, Comprehension, Expr, Kind},
};

impl Parser {
    /// `name(args)`.
    pub(super) fn global_call(&mut self, at: usize, name: &str, mut args: Vec<Expr>) -> Option<Expr> {
        if name != "has" || args.len() != 1 {
            return self.node(at, Kind::Call { function: name.into(), target: None, args });
        }
        let argument = args.pop()?;
        match argument.kind {
            Kind::Select { operand, field, test: false } => self.node(at, Kind::Select { operand, field, test: true }),
            _ => {
                self.refuse(argument.at, "invalid argument to has() macro");
                None
            }
        }
    }

    /// `target.name(args)`.
    pub(super) fn member_call(&mut self, at: usize, name: &str, target: Expr, args: Vec<Expr>) -> Option<Expr> {
        match (name, args.len()) {
            ("all" | "exists" | "exists_one" | "existsOne", 2) => self.quantifier(at, name, target, args, false),
            ("all" | "exists" | "exists_one" | "existsOne", 3) => self.quantifier(at, name, target, args, true),
            ("map", 2 | 3) => self.transform(at, "list", target, args, false),
            ("filter", 2) => self.filter(at, target, args),
            ("transformList", 3 | 4) => self.transform(at, "list", target, args, true),
            ("transformMap", 3 | 4) => self.transform(at, "map", target, args, true),
            ("transformMapEntry", 3 | 4) => self.transform(at, "entry", target, args, true),
            ("optMap", 2) => self.optional(at, target, args, true),
            ("optFlatMap", 2) => self.optional(at, target, args, false),
            ("sortBy", 2) => self.sort_by(at, target, args),
            ("bind", 3) if matches!(&target.kind, Kind::Ident(name) if &**name == "cel") => self.bind_macro(at, args),
            _ => self.node(at, Kind::Call { function: name.into(), target: Some(Box::new(target)), args }),
        }
    }

    fn simple_name(&mut self, expr: &Expr, message: &str) -> Option<Arc<str>> {
        match &expr.kind {
            Kind::Ident(name) => Some(name.clone()),
            _ => {
                self.refuse(expr.at, message);
                None
            }
        }
    }

    fn accumulator(&mut self, at: usize) -> Option<Expr> {
        self.node(at, Kind::Ident(ACCUMULATOR.into()))
    }

    fn quantifier(&mut self, at: usize, name: &str, range: Expr, args: Vec<Expr>, two: bool) -> Option<Expr> {
        let mut args = args.into_iter();
        let message = if two { "argument is not an identifier" } else { "argument must be a simple name" };
        let variable = self.simple_name(&args.next()?, message)?;
        let variable2 = if two { Some(self.simple_name(&args.next()?, message)?) } else { None };
        let predicate = args.next()?;
        let (init, condition, step, result) = match name {
            "all" => {
                let accumulator = self.accumulator(at)?;
                let condition = self.call(at, "@not_strictly_false", vec![accumulator])?;
                let accumulator = self.accumulator(at)?;
                let step = self.call(at, "_&&_", vec![accumulator, predicate])?;
                (Value::Bool(true), condition, step, self.accumulator(at)?)
            }
            "exists" => {
                let accumulator = self.accumulator(at)?;
                let not = self.call(at, "!_", vec![accumulator])?;
                let condition = self.call(at, "@not_strictly_false", vec![not])?;
                let accumulator = self.accumulator(at)?;
                let step = self.call(at, "_||_", vec![accumulator, predicate])?;
                (Value::Bool(false), condition, step, self.accumulator(at)?)
            }
            _ => {
                let condition = self.literal(at, Value::Bool(true))?;
                let one = self.literal(at, Value::Int(1))?;
                let accumulator = self.accumulator(at)?;
                let more = self.call(at, "_+_", vec![accumulator, one])?;
                let accumulator = self.accumulator(at)?;
                let step = self.call(at, "_?_:_", vec![predicate, more, accumulator])?;
                let one = self.literal(at, Value::Int(1))?;
                let accumulator = self.accumulator(at)?;
                (Value::Int(0), condition, step, self.call(at, "_==_", vec![accumulator, one])?)
            }
        };
        let init = self.literal(at, init)?;
        let accumulator = ACCUMULATOR.into();
        let inner = Comprehension { range, variable, variable2, accumulator, init, condition, step, result, bind: false };
        self.node(at, Kind::Comprehension(Box::new(inner)))
    }

    fn filter(&mut self, at: usize, range: Expr, args: Vec<Expr>) -> Option<Expr> {
        let mut args = args.into_iter();
        let element = args.next()?;
        let variable = self.simple_name(&element, "argument is not an identifier")?;
        let predicate = args.next()?;
        let step = self.append(at, element)?;
        let step = self.guarded(at, Some(predicate), step)?;
        let init = self.node(at, Kind::List(Vec::new()))?;
        self.gather(at, range, (variable, None), init, step)
    }

    /// `map` and its like: what they gather is a list, a map, or a map of entries.
    fn transform(&mut self, at: usize, into: &str, range: Expr, args: Vec<Expr>, two: bool) -> Option<Expr> {
        let guarded = args.len() == if two { 4 } else { 3 };
        let mut args = args.into_iter();
        let message = "argument is not an identifier";
        let key = args.next()?;
        let variable = self.simple_name(&key, message)?;
        let variable2 = if two { Some(self.simple_name(&args.next()?, message)?) } else { None };
        let predicate = if guarded { Some(args.next()?) } else { None };
        let value = args.next()?;
        let (init, step) = match into {
            "list" => (Kind::List(Vec::new()), self.append(at, value)?),
            "map" => {
                let accumulator = self.accumulator(at)?;
                (Kind::Map(Vec::new()), self.call(at, "cel.@mapInsert", vec![accumulator, key, value])?)
            }
            _ => {
                let accumulator = self.accumulator(at)?;
                (Kind::Map(Vec::new()), self.call(at, "cel.@mapInsert", vec![accumulator, value])?)
            }
        };
        let step = self.guarded(at, predicate, step)?;
        let init = self.node(at, init)?;
        self.gather(at, range, (variable, variable2), init, step)
    }

    fn append(&mut self, at: usize, value: Expr) -> Option<Expr> {
        let list = self.node(at, Kind::List(vec![(value, false)]))?;
        let accumulator = self.accumulator(at)?;
        self.call(at, "_+_", vec![accumulator, list])
    }

    fn guarded(&mut self, at: usize, predicate: Option<Expr>, step: Expr) -> Option<Expr> {
        let Some(predicate) = predicate else { return Some(step) };
        let accumulator = self.accumulator(at)?;
        self.call(at, "_?_:_", vec![predicate, step, accumulator])
    }

    fn gather(
        &mut self,
        at: usize,
        range: Expr,
        (variable, variable2): (Arc<str>, Option<Arc<str>>),
        init: Expr,
        step: Expr,
    ) -> Option<Expr> {
        let condition = self.literal(at, Value::Bool(true))?;
        let result = self.accumulator(at)?;
        let accumulator = ACCUMULATOR.into();
        let inner = Comprehension { range, variable, variable2, accumulator, init, condition, step, result, bind: false };
        self.node(at, Kind::Comprehension(Box::new(inner)))
    }

    /// `target.sortBy(v, key)`: the target is bound to a name, as it is needed twice.
    fn sort_by(&mut self, at: usize, target: Expr, args: Vec<Expr>) -> Option<Expr> {
        let bound: Arc<str> = "@__sortBy_input__".into();
        let input = self.node(at, Kind::Ident(bound.clone()))?;
        let keys = self.transform(at, "list", input, args, false)?;
        let input = Some(Box::new(self.node(at, Kind::Ident(bound.clone()))?));
        let sorted = self.node(at, Kind::Call { function: "@sortByAssociatedKeys".into(), target: input, args: vec![keys] })?;
        self.bind(at, bound, target, sorted)
    }

    fn bind_macro(&mut self, at: usize, args: Vec<Expr>) -> Option<Expr> {
        let mut args = args.into_iter();
        let name = self.simple_name(&args.next()?, "cel.bind() variable names must be simple identifiers")?;
        let (init, result) = (args.next()?, args.next()?);
        self.bind(at, name, init, result)
    }

    fn bind(&mut self, at: usize, name: Arc<str>, init: Expr, result: Expr) -> Option<Expr> {
        let range = self.node(at, Kind::List(Vec::new()))?;
        let condition = self.literal(at, Value::Bool(false))?;
        let step = self.node(at, Kind::Ident(name.clone()))?;
        let inner = Comprehension {
            range,
            variable: "#unused".into(),
            variable2: None,
            accumulator: name,
            init,
            condition,
            step,
            result,
            bind: true,
        };
        self.node(at, Kind::Comprehension(Box::new(inner)))
    }

    /// `target.optMap(v, e)`: the target is bound to a name, so that chains of these don't double.
    fn optional(&mut self, at: usize, target: Expr, args: Vec<Expr>, wrap: bool) -> Option<Expr> {
        let mut args = args.into_iter();
        let variable = self.simple_name(&args.next()?, "optMap() variable name must be a simple identifier")?;
        let mapped = args.next()?;
        let bound: Arc<str> = "@target".into();
        let method = |parser: &mut Self, function: &str| {
            let target = Some(Box::new(parser.node(at, Kind::Ident(bound.clone()))?));
            parser.node(at, Kind::Call { function: function.into(), target, args: Vec::new() })
        };
        let has = method(self, "hasValue")?;
        let value = method(self, "value")?;
        let mapped = self.bind(at, variable, value, mapped)?;
        let some = if wrap { self.call(at, "optional.of", vec![mapped])? } else { mapped };
        let none = self.call(at, "optional.none", Vec::new())?;
        let choice = self.call(at, "_?_:_", vec![has, some, none])?;
        self.bind(at, bound, target, choice)
    }
}
