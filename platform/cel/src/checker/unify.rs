//! Type parameters, found by unification (`google/cel-go/checker/types.go`).

use std::collections::HashMap;

use crate::types::Ty;

/// What type parameters stand for.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    known: HashMap<u32, Ty>,
    /// What was known before, for what has to be taken back.
    log: Vec<(u32, Option<Ty>)>,
    next: u32,
}

impl Mapping {
    /// The first of so many new parameters.
    pub(super) fn fresh(&mut self, count: u32) -> u32 {
        let first = self.next;
        self.next += count;
        first
    }

    pub(super) fn variable(&mut self) -> Ty {
        Ty::Param(self.fresh(1))
    }

    /// Whether values of one type can be used for the other, with what that tells of parameters.
    pub(super) fn assign(&mut self, a: &Ty, b: &Ty) -> bool {
        self.assign_all(std::slice::from_ref(a), std::slice::from_ref(b))
    }

    pub(super) fn assign_all(&mut self, a: &[Ty], b: &[Ty]) -> bool {
        if a.len() != b.len() {
            return false;
        }
        self.log.clear();
        let fits = a.iter().zip(b).all(|(a, b)| self.fits(a, b));
        if !fits {
            while let Some((param, before)) = self.log.pop() {
                match before {
                    Some(ty) => self.known.insert(param, ty),
                    None => self.known.remove(&param),
                };
            }
        }
        fits
    }

    fn learn(&mut self, param: u32, ty: Ty) {
        let before = self.known.insert(param, ty);
        self.log.push((param, before));
    }

    fn fits(&mut self, a: &Ty, b: &Ty) -> bool {
        if let Ty::Param(b_id) = b {
            let (valid, known) = self.substitution(a, *b_id);
            if valid || known {
                return valid;
            }
        }
        if let Ty::Param(a_id) = a {
            return self.substitution(b, *a_id).0;
        }
        match (a, b) {
            _ if a.is_dyn() || b.is_dyn() => true,
            (Ty::Null, other) | (other, Ty::Null) => {
                matches!(
                    other,
                    Ty::Null | Ty::Optional(_) | Ty::Opaque(_) | Ty::Object(_) | Ty::Message(_) | Ty::Duration | Ty::Timestamp
                )
            }
            (Ty::List(a), Ty::List(b)) | (Ty::Optional(a), Ty::Optional(b)) => self.fits(a, b),
            (Ty::Map(a), Ty::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Ty::Type(_), Ty::Type(_)) => true,
            _ => exact(a, b),
        }
    }

    /// Whether a parameter can stand for a type, and whether it stood for one before.
    fn substitution(&mut self, ty: &Ty, param: u32) -> (bool, bool) {
        if matches!(ty, Ty::Param(id) if *id == param) {
            return (true, true);
        }
        if let Some(known) = self.known.get(&param).cloned() {
            if exact(ty, &known) {
                return (true, true);
            }
            if self.fits(ty, &known) {
                let general = if less_specific(ty, &known) { ty.clone() } else { known };
                if self.absent(param, &general) {
                    self.learn(param, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.absent(param, ty) {
            self.learn(param, ty.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether a parameter is not part of what it would stand for.
    fn absent(&self, param: u32, ty: &Ty) -> bool {
        match ty {
            Ty::Param(id) if *id == param => false,
            Ty::Param(id) => self.known.get(id).is_none_or(|known| self.absent(param, known)),
            Ty::List(inner) | Ty::Optional(inner) | Ty::Type(inner) => self.absent(param, inner),
            Ty::Map(inner) => self.absent(param, &inner.0) && self.absent(param, &inner.1),
            _ => true,
        }
    }

    /// A type with parameters replaced by what they stand for; those that are open by `dyn`, if asked to.
    pub(super) fn substitute(&self, ty: &Ty, open_to_dyn: bool) -> Ty {
        match ty {
            Ty::Param(id) => match self.known.get(id) {
                Some(known) => self.substitute(known, open_to_dyn),
                None if open_to_dyn => Ty::Dyn,
                None => ty.clone(),
            },
            Ty::List(inner) => Ty::list(self.substitute(inner, open_to_dyn)),
            Ty::Optional(inner) => Ty::optional(self.substitute(inner, open_to_dyn)),
            Ty::Type(inner) => Ty::Type(self.substitute(inner, open_to_dyn).into()),
            Ty::Map(inner) => Ty::map(self.substitute(&inner.0, open_to_dyn), self.substitute(&inner.1, open_to_dyn)),
            _ => ty.clone(),
        }
    }
}

/// An overload's type with parameters that are its call's own.
pub(super) fn renamed(ty: &Ty, first: u32) -> Ty {
    match ty {
        Ty::Param(id) => Ty::Param(first + id),
        Ty::List(inner) => Ty::list(renamed(inner, first)),
        Ty::Optional(inner) => Ty::optional(renamed(inner, first)),
        Ty::Type(inner) => Ty::Type(renamed(inner, first).into()),
        Ty::Map(inner) => Ty::map(renamed(&inner.0, first), renamed(&inner.1, first)),
        _ => ty.clone(),
    }
}

/// The same type.
pub(super) fn exact(a: &Ty, b: &Ty) -> bool {
    match (a, b) {
        (Ty::List(a), Ty::List(b)) | (Ty::Optional(a), Ty::Optional(b)) | (Ty::Type(a), Ty::Type(b)) => exact(a, b),
        (Ty::Map(a), Ty::Map(b)) => exact(&a.0, &b.0) && exact(&a.1, &b.1),
        (Ty::Object(a), Ty::Object(b)) => std::sync::Arc::ptr_eq(a, b),
        (Ty::Message(a), Ty::Message(b)) => a == b,
        (Ty::Opaque(a), Ty::Opaque(b)) => a == b,
        (Ty::Param(a), Ty::Param(b)) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// Whether the first is as general as the second, or more.
pub(super) fn less_specific(a: &Ty, b: &Ty) -> bool {
    match (a, b) {
        (Ty::Dyn | Ty::Error | Ty::Param(_), _) => true,
        (_, Ty::Dyn | Ty::Error | Ty::Param(_)) => false,
        (Ty::List(a), Ty::List(b)) | (Ty::Optional(a), Ty::Optional(b)) => less_specific(a, b),
        (Ty::Map(a), Ty::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Ty::Type(_), Ty::Type(_)) => true,
        _ => exact(a, b),
    }
}
