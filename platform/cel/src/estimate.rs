//! What an evaluation may cost at most, from what schemas say of sizes.
//!
//! `google/cel-go/checker/cost.go` and, for functions ([`functions`]), `apiserver/pkg/cel/library/cost.go`. What is not known is
//! taken to be as large as can be.

mod functions; // What calls cost.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Environment, Value,
    ast::{ACCUMULATOR, Comprehension, Expr, Kind},
    checker::Checked,
    declaration::Declaration,
    types::Ty,
};

/// From the least to the most; of sizes and of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Range {
    const ZERO: Self = Self::fixed(0);
    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    const fn fixed(value: u64) -> Self {
        Self { min: value, max: value }
    }

    fn add(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn multiply(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// So many units each.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "saturates")]
    fn factor(self, factor: f64) -> Self {
        let scale = |value: u64| (value as f64 * factor).ceil() as u64;
        Self { min: scale(self.min), max: scale(self.max) }
    }
}

/// The sizes of a container's keys and values.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(self, other: Self) -> Self {
        Self { is_list: self.is_list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

/// Where a value is, from a name on.
type Path = Vec<Arc<str>>;

struct Local {
    name: Arc<str>,
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Coster<'c> {
    checked: &'c Checked,
    environment: &'c Environment,
    paths: HashMap<usize, Path>,
    sizes: HashMap<usize, Range>,
    entries: HashMap<usize, Entries>,
    locals: Vec<Local>,
}

/// What an evaluation may cost at most.
pub(crate) fn max_cost(environment: &Environment, checked: &Checked) -> u64 {
    let mut coster = Coster {
        checked,
        environment,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(&checked.expr).max
}

impl Coster<'_> {
    fn ty(&self, expr: &Expr) -> &Ty {
        self.checked.types.get(expr.id).unwrap_or(&Ty::Dyn)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn below(&self, expr: &Expr, step: &str) -> Path {
        let mut path = self.path(expr);
        path.push(step.into());
        path
    }

    fn cost(&mut self, expr: &Expr) -> Range {
        match &expr.kind {
            Kind::Literal(Value::Type(name)) => {
                self.paths.insert(expr.id, vec![name.clone()]);
                Range::fixed(1)
            }
            Kind::Literal(_) => Range::ZERO,
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                Range::fixed(1)
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let sum = self.cost(operand);
                let path = self.below(operand, field);
                self.paths.insert(expr.id, path);
                let own = matches!(self.ty(operand), Ty::Map(_) | Ty::Object(_) | Ty::Message(_));
                sum.add(Range::fixed(u64::from(own)))
            }
            Kind::Call { .. } => self.call(expr),
            Kind::List(items) => {
                let mut sum = Range::fixed(10);
                let mut size: Option<Range> = None;
                for (item, _) in items {
                    sum = sum.add(self.cost(item));
                    let item = self.size_or_unknown(item);
                    size = Some(size.map_or(item, |size| size.union(item)));
                }
                let value = size.unwrap_or(Range::ZERO);
                self.entries.insert(expr.id, Entries { is_list: true, key: Range::fixed(1), value });
                sum
            }
            Kind::Map(_) => self.map(expr),
            Kind::Struct { fields, .. } => {
                let mut sum = Range::fixed(40);
                for field in fields {
                    sum = sum.add(self.cost(&field.value));
                }
                sum
            }
            Kind::Comprehension(inner) if inner.bind => self.bind(expr, inner),
            Kind::Comprehension(inner) => self.comprehension(expr, inner),
        }
    }

    fn map(&mut self, expr: &Expr) -> Range {
        let Kind::Map(entries) = &expr.kind else { return Range::ZERO };
        let mut sum = Range::fixed(30);
        let mut sizes: Option<Entries> = None;
        for entry in entries {
            sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
            let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
            let next = Entries { is_list: false, key, value };
            sizes = Some(sizes.map_or(next, |sizes| sizes.union(next)));
        }
        self.entries.insert(expr.id, sizes.unwrap_or(Entries { is_list: false, key: Range::ZERO, value: Range::ZERO }));
        sum
    }

    fn bind(&mut self, expr: &Expr, inner: &Comprehension) -> Range {
        let sum = self.cost(&inner.range).add(self.cost(&inner.init));
        self.push(&inner.accumulator, &inner.init);
        let sum = sum.add(self.cost(&inner.result));
        let (size, entries) = (self.size(&inner.result), self.entry_sizes(&inner.result));
        self.locals.pop();
        self.set(expr, size, entries);
        sum
    }

    fn push(&mut self, name: &Arc<str>, init: &Expr) {
        let local = Local { name: name.clone(), path: self.path(init), size: self.size(init), entries: self.entry_sizes(init) };
        self.locals.push(local);
    }

    fn set(&mut self, expr: &Expr, size: Option<Range>, entries: Option<Entries>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
    }

    fn comprehension(&mut self, expr: &Expr, inner: &Comprehension) -> Range {
        let mut sum = self.cost(&inner.range).add(self.cost(&inner.init));
        self.push(&inner.accumulator, &inner.init);
        let entries = self.entry_sizes(&inner.range);
        let is_list = entries.map_or(matches!(self.ty(&inner.range), Ty::List(_)), |entries| entries.is_list);
        let (key_step, value_step) = if is_list { ("@indices", "@items") } else { ("@keys", "@values") };
        let key = (self.below(&inner.range, key_step), entries.map(|entries| entries.key));
        let value = (self.below(&inner.range, value_step), entries.map(|entries| entries.value));
        let depth = self.locals.len();
        let mut variable = |name: &Arc<str>, (path, size): (Path, Option<Range>)| {
            self.locals.push(Local { name: name.clone(), path, size, entries: None });
        };
        match &inner.variable2 {
            Some(second) => {
                variable(&inner.variable, key);
                variable(second, value);
            }
            None => variable(&inner.variable, if is_list { value } else { key }),
        }
        let condition = self.cost(&inner.condition);
        let step = self.cost(&inner.step);
        self.locals.truncate(depth);
        sum = sum.add(self.cost(&inner.result));
        let count = self.size_or_unknown(&inner.range);
        sum = sum.add(count.multiply(step.add(condition)));
        let step_entries = self.entry_sizes(&inner.step);
        self.locals.pop();
        match &inner.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&inner.init);
                self.set(expr, size, None);
            }
            Kind::List(_) | Kind::Map(_) => self.set(expr, Some(count), step_entries),
            _ => {}
        }
        sum
    }

    fn call(&mut self, expr: &Expr) -> Range {
        let Kind::Call { function, target, args } = &expr.kind else { return Range::ZERO };
        if &**function == "dyn"
            && let [argument] = &args[..]
        {
            let cost = self.cost(argument);
            let (size, entries) = (self.size(argument), self.entry_sizes(argument));
            self.set(expr, size, entries);
            return cost.add(Range::fixed(1));
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let mut sum = Range::ZERO;
        if let Some(target) = target {
            sum = self.cost(target);
        }
        let mut cost: Option<Range> = None;
        let mut size: Option<Range> = None;
        for overload in self.checked.overloads.get(expr.id).into_iter().flatten() {
            let (own, result) = functions::cost(self, expr, overload, &costs);
            cost = Some(cost.map_or(own, |cost| cost.union(own)));
            if let Some(result) = result {
                size = Some(size.map_or(result, |size| size.union(result)));
            }
            match (*overload, args.first()) {
                ("index_list", Some(list)) => {
                    size = self.entry_sizes(list).map(|entries| entries.value);
                    let path = self.below(list, "@items");
                    self.paths.insert(expr.id, path);
                }
                ("index_map", Some(map)) => {
                    size = self.entry_sizes(map).map(|entries| entries.value);
                    let path = self.below(map, "@values");
                    self.paths.insert(expr.id, path);
                }
                _ => {}
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.set(expr, size, None);
        sum.add(cost.unwrap_or(Range::ZERO))
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        match &expr.kind {
            Kind::Literal(Value::Type(_)) => {}
            Kind::Literal(value) => return Some(Range::fixed(value.size())),
            Kind::List(items) => return Some(Range::fixed(items.len() as u64)),
            Kind::Map(entries) => return Some(Range::fixed(entries.len() as u64)),
            _ => {}
        }
        let path = self.path(expr);
        if let Some(size) = self.declared(&path) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.ty(expr).is_scalar() {
            return Some(Range::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn entry_sizes(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    /// How large schemas let the value at a path be.
    fn declared(&self, path: &[Arc<str>]) -> Option<Range> {
        let (name, rest) = path.split_first()?;
        if &**name == ACCUMULATOR {
            return None;
        }
        // As upstream: whatever the name, where there is a schema at all.
        let root = self.environment.declaration(name).or_else(|| self.environment.declaration("self"))?;
        let mut declaration: &Declaration = root;
        for step in rest {
            match &**step {
                "@items" | "@values" => declaration = declaration.element()?,
                // Keys are strings without a schema.
                "@keys" if declaration.is_map() => return Some(Range::ZERO),
                "@keys" | "@indices" => return None,
                field => declaration = declaration.is_object().then(|| declaration.member(field)).flatten()?.1,
            }
        }
        Some(Range { min: 0, max: declaration.max_elements() })
    }
}
