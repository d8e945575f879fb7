//! Types: those the checker works with, and those it tells.

use std::{fmt, sync::Arc};

use crate::declaration::Declaration;

/// What kind of value an expression has, as far as its check can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything.
    Dyn,
    /// `null`.
    Null,
    /// A truth value.
    Bool,
    /// A signed whole number.
    Int,
    /// An unsigned whole number.
    Uint,
    /// A floating-point number.
    Double,
    /// A string.
    String,
    /// Bytes.
    Bytes,
    /// A moment.
    Timestamp,
    /// A length of time.
    Duration,
    /// A list.
    List,
    /// A map.
    Map,
    /// An object with a schema, or a message literal.
    Object,
    /// A value that may be missing.
    Optional,
    /// A type.
    Type,
    /// A value of one of Kubernetes' libraries.
    Opaque,
}

/// A type with its parameters.
#[derive(Debug, Clone)]
pub(crate) enum Ty {
    /// An error was found there already.
    Error,
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Ty>),
    Map(Arc<(Ty, Ty)>),
    Optional(Arc<Ty>),
    Type(Arc<Ty>),
    Object(Arc<Declaration>),
    /// A message literal.
    Message(Arc<str>),
    Opaque(&'static str),
    /// Not known yet.
    Param(u32),
}

impl Ty {
    pub(crate) fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    pub(crate) fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub(crate) fn optional(value: Self) -> Self {
        Self::Optional(Arc::new(value))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    pub(crate) fn kind(&self) -> Type {
        match self {
            Self::Error | Self::Dyn | Self::Param(_) => Type::Dyn,
            Self::Null => Type::Null,
            Self::Bool => Type::Bool,
            Self::Int => Type::Int,
            Self::Uint => Type::Uint,
            Self::Double => Type::Double,
            Self::String => Type::String,
            Self::Bytes => Type::Bytes,
            Self::Timestamp => Type::Timestamp,
            Self::Duration => Type::Duration,
            Self::List(_) => Type::List,
            Self::Map(_) => Type::Map,
            Self::Optional(_) => Type::Optional,
            Self::Type(_) => Type::Type,
            Self::Object(_) | Self::Message(_) => Type::Object,
            Self::Opaque(_) => Type::Opaque,
        }
    }

    /// Whether values of the type have a fixed size.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Dyn | Self::Param(_) => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(inner) => write!(f, "map({}, {})", inner.0, inner.1),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type(inner) => write!(f, "type({inner})"),
            Self::Object(declaration) => f.write_str(declaration.name()),
            Self::Message(name) => f.write_str(name),
            Self::Opaque(name) => f.write_str(name),
        }
    }
}
