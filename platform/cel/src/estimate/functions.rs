//! What calls may cost, by the sizes their arguments may have.

use super::{Coster, Path, Range};
use crate::{
    Value,
    ast::{Expr, Kind},
    types::Ty,
};

/// The cost of a call with its arguments (without its receiver), and the size of its result if that is known.
pub(super) fn cost(coster: &mut Coster<'_>, expr: &Expr, overload: &str, costs: &[Range]) -> (Range, Option<Range>) {
    let Kind::Call { function, target, args } = &expr.kind else { return (Range::ZERO, None) };
    let sum = costs.iter().fold(Range::ZERO, |sum, cost| sum.add(*cost));
    let mut call = Call { coster, overload, target: target.as_deref(), args };
    if let Some((own, size)) = call.extension().or_else(|| call.kubernetes(function)) {
        return (own.add(sum), size);
    }
    match (overload, costs) {
        ("logical_or" | "logical_and", [left, right]) => (Range { min: left.min, max: left.add(*right).max }, None),
        ("conditional", [condition, yes, no]) => {
            let size = call.size(1).union(call.size(2));
            let entries = call.coster.entry_sizes(&args[1]).zip(call.coster.entry_sizes(&args[2]));
            call.coster.set(expr, None, entries.map(|(yes, no)| yes.union(no)));
            (condition.add(yes.union(*no)), Some(size))
        }
        ("add_string" | "add_bytes" | "add_list", _) => {
            let size = call.size(0).add(call.size(1));
            let entries = call.coster.entry_sizes(&args[0]).zip(call.coster.entry_sizes(&args[1]));
            call.coster.set(expr, None, entries.map(|(left, right)| left.union(right)));
            let own = if overload == "add_list" { Range::fixed(1) } else { size.factor(0.1) };
            (own.add(sum), Some(size))
        }
        _ => {
            let (own, size) = call.standard();
            (own.add(sum), size)
        }
    }
}

struct Call<'s, 'c, 'e> {
    coster: &'s mut Coster<'c>,
    overload: &'s str,
    target: Option<&'e Expr>,
    args: &'e [Expr],
}

impl Call<'_, '_, '_> {
    fn size(&mut self, at: usize) -> Range {
        match self.args.get(at) {
            Some(arg) => self.coster.size_or_unknown(arg),
            None => Range::UNKNOWN,
        }
    }

    fn target(&mut self) -> Range {
        match self.target {
            Some(target) => self.coster.size_or_unknown(target),
            None => Range::UNKNOWN,
        }
    }

    /// cel-go's own functions.
    fn standard(&mut self) -> (Range, Option<Range>) {
        let one = Range::fixed(1);
        match self.overload {
            "string_format" => (self.target().factor(0.1), None),
            "string_to_bytes" => {
                let size = self.size(0);
                (size.factor(0.1), Some(Range { min: size.min, max: size.max.saturating_mul(4) }))
            }
            "bytes_to_string" => {
                let size = self.size(0);
                (size.factor(0.1), Some(Range { min: size.min / 4, max: size.max }))
            }
            "strings_quote" => {
                let size = self.size(0);
                let quoted = Range { min: size.min.saturating_add(2), max: size.max.saturating_mul(2).saturating_add(2) };
                (size.factor(0.1), Some(quoted))
            }
            "starts_with_string" | "ends_with_string" => (self.size(0).factor(0.1), None),
            "in_list" => (self.size(1), None),
            "matches_string" => (self.target().add(one).factor(0.1).multiply(self.size(0).factor(0.25)), None),
            "contains_string" => (self.target().factor(0.1).multiply(self.size(0).factor(0.1)), None),
            "equals" | "not_equals" => (self.smaller(), None),
            id if compares_text(id) => (self.smaller(), None),
            _ => (one, None),
        }
    }

    /// Going through the smaller of two arguments.
    fn smaller(&mut self) -> Range {
        let max = self.size(0).max.min(self.size(1).max);
        Range { min: u64::from(max > 0), max }.factor(0.1)
    }

    /// cel-go's extensions that have costs of their own.
    fn extension(&mut self) -> Option<(Range, Option<Range>)> {
        let made = |factor: f64, size: Range| Some((size.factor(factor).add(Range::fixed(11)), Some(size)));
        match self.overload {
            "list_slice" => {
                let max = self.target().max;
                let (from, to) = (self.literal(0, 0), self.literal(1, max));
                made(1.0, Range::fixed(to.saturating_sub(from)))
            }
            "lists_range" => made(1.0, Range::fixed(self.literal(0, u64::MAX))),
            "list_reverse" => made(1.0, self.target()),
            "list_flatten" => made(1.0, self.target()),
            "list_flatten_int" => {
                let depth = self.literal(0, u64::MAX);
                let size = self.target();
                Some((size.multiply(Range::fixed(depth)).add(Range::fixed(11)), Some(size)))
            }
            "list_distinct" => {
                let size = self.target();
                made(2.0, size.multiply(size))
            }
            id if id.ends_with("_sort") && id.starts_with("list_") => {
                let size = self.target();
                made(if is_text(id) { 2.1 } else { 2.0 }, size.multiply(size))
            }
            id if id.ends_with("_sortByAssociatedKeys") => {
                let size = self.size(0);
                made(if is_text(id) { 2.1 } else { 2.0 }, size.multiply(size))
            }
            "list_sets_contains_list" | "list_sets_intersects_list" => {
                Some((self.size(0).multiply(self.size(1)).add(Range::fixed(1)), None))
            }
            "list_sets_equivalent_list" => Some((self.size(0).multiply(self.size(1)).factor(2.0).add(Range::fixed(1)), None)),
            _ => None,
        }
    }

    /// A number that is written as such.
    fn literal(&self, at: usize, otherwise: u64) -> u64 {
        match self.args.get(at).map(|arg| &arg.kind) {
            Some(Kind::Literal(Value::Int(value))) => u64::try_from(*value).unwrap_or(0),
            _ => otherwise,
        }
    }

    /// Kubernetes' libraries.
    fn kubernetes(&mut self, function: &str) -> Option<(Range, Option<Range>)> {
        let one = Range::fixed(1);
        let address = Range { min: 4, max: 16 };
        Some(match function {
            "check" => (Range::fixed(350_000), None),
            "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed" | "reason"
            | "error" | "errored" => (one, None),
            "fieldSelector" | "labelSelector" => {
                let size = self.size(0);
                (Range::fixed(10).add(size.factor(0.1)).add(size.factor(0.5).factor(50.0)), None)
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
                let target = self.target?;
                let size = self.target();
                match (self.item(target), function) {
                    (Some((ty, item)), _) => {
                        let text = matches!(ty, Ty::String | Ty::Bytes);
                        let each = if text { one.add(item.factor(0.1)) } else { one };
                        (size.multiply(each), None)
                    }
                    (None, "includes") => (size, None),
                    (None, _) => (size.factor(0.1), None),
                }
            }
            "url" | "jsonpatch.escapeKey" => (self.size(0).factor(0.1), Some(self.size(0))),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => (self.target().factor(0.1), Some(self.target())),
            "replace" => {
                let size = self.target();
                (size.factor(0.2), Some(replaced(size, self.size(0), self.size(1))))
            }
            "split" => {
                let size = self.target();
                let max = if self.args.len() > 1 { self.split_limit(size.max) } else { size.max };
                (size.factor(0.2), Some(Range { min: 0, max }))
            }
            "join" => {
                let target = self.target?;
                let list = self.target();
                let mut size = self.item(target).map_or(Range::ZERO, |(_, item)| list.multiply(item));
                if !self.args.is_empty() {
                    let between = Range { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    size = size.add(self.size(0).multiply(between));
                }
                (size.factor(0.1), Some(size))
            }
            "find" | "findAll" => {
                let size = self.target();
                let cost = size.add(one).factor(0.1).multiply(self.size(0).factor(0.25));
                (cost, Some(Range { min: 0, max: size.max }))
            }
            "ip" if self.overload == "cidr_ip" => (one, None),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                (self.size(0).factor(0.1), None)
            }
            "ip.isCanonical" => (self.size(0).factor(0.2), None),
            "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast" => (one, None),
            "containsIP" | "containsCIDR" => {
                let mut cost = address.add(address).factor(0.1);
                if function == "containsCIDR" {
                    cost = cost.add(address.factor(0.1)).add(one);
                }
                if self.overload.ends_with("_string") {
                    cost = cost.add(self.size(0).factor(0.1));
                }
                (cost, None)
            }
            "validate" => (self.size(0).factor(0.1).factor(32.0), None),
            "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan"
            | "compareTo" | "add" | "sub" | "major" | "minor" | "patch" | "getScheme" | "getHostname" | "getHost" | "getPort"
            | "getEscapedPath" | "getQuery" => (one, None),
            "_==_" => match (self.args.first().map(|arg| self.coster.ty(arg)), self.args.get(1).map(|arg| self.coster.ty(arg))) {
                (Some(Ty::Opaque(a)), Some(Ty::Opaque(b))) if a == b => match *a {
                    "kubernetes.NamedFormat" => (Range { min: 1, max: 64 }.factor(0.1), None),
                    _ => (one, None),
                },
                _ => return None,
            },
            _ => return None,
        })
    }

    fn split_limit(&self, size: u64) -> u64 {
        match self.args.get(1).map(|arg| &arg.kind) {
            Some(Kind::Literal(Value::Int(limit))) => u64::try_from(*limit).unwrap_or(u64::MAX),
            _ => size,
        }
    }

    /// The type and size of what a list holds.
    fn item(&mut self, list: &Expr) -> Option<(Ty, Range)> {
        let ty = match self.coster.ty(list) {
            Ty::List(item) => (**item).clone(),
            Ty::Map(inner) => inner.0.clone(),
            _ => return None,
        };
        let mut path: Path = self.coster.path(list);
        let size = if path.is_empty() {
            None
        } else {
            path.push("@items".into());
            self.coster.declared(&path)
        };
        Some((ty, size.unwrap_or(Range::UNKNOWN)))
    }
}

fn is_text(id: &str) -> bool {
    id.contains("string") || id.contains("bytes")
}

fn compares_text(id: &str) -> bool {
    (id.starts_with("less_") || id.starts_with("greater_")) && (id.ends_with("_string") || id.ends_with("_bytes"))
}

/// The size of a text after replacements.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    let mut count = Range::ZERO;
    let mut kept = Range::ZERO;
    // The longest.
    if from.min == 0 {
        count.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if to.max <= from.min {
        kept.max = size.max;
    } else {
        count.max = size.max.div_ceil(from.min);
    }
    // The shortest.
    if from.max == 0 {
        count.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if from.max <= to.min {
        kept.min = size.min;
    } else {
        count.min = size.min.div_ceil(from.max);
    }
    count.multiply(to).add(kept)
}
