//! Values of the language.
//!
//! Lists and maps of an object are views of its JSON: nothing is copied before an expression asks for it.

mod convert; // To and from JSON,
mod equal; // equality and order,
mod list; // lists,
mod map; // maps,
mod text; // and strings.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use pharos_api::quantity::Quantity;

use crate::{
    authorizer::CheckDecision,
    library::{authorizer::Question, cidr::Cidr, format::Format, semver::Semver, url::Url},
};

pub(crate) use convert::from_json;
pub(crate) use equal::{compare, equal};
pub(crate) use list::{List, MAX_ITEMS, merged};
pub(crate) use map::{Key, Map};
pub(crate) use text::Text;

/// A value that holds no reference to what it was made of.
pub type Value = Val<'static>;

/// A value.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed whole number.
    Int(i64),
    /// An unsigned whole number.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A string.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A moment.
    Timestamp(Timestamp),
    /// A length of time, in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map, or an object.
    Map(Map<'a>),
    /// A value that may be missing.
    Optional(Option<Arc<Val<'a>>>),
    /// A type, by its name.
    Type(Arc<str>),
    /// A value of one of Kubernetes' libraries.
    Opaque(Opaque),
}

/// What Kubernetes' libraries add.
#[derive(Debug, Clone)]
pub enum Opaque {
    /// An amount.
    Quantity(Quantity),
    /// An IP address.
    Ip(IpAddr),
    /// A range of IP addresses.
    Cidr(Cidr),
    /// An address.
    Url(Arc<Url>),
    /// A version.
    Semver(Arc<Semver>),
    /// A format of strings.
    Format(&'static Format),
    /// A question for the authorizer, not yet asked.
    Question(Arc<Question>),
    /// The authorizer's answer.
    Decision(Arc<CheckDecision>),
}

impl Opaque {
    /// The name of its type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Question(question) => question.type_name(),
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

impl<'a> Val<'a> {
    /// A string of its own.
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A list of its own.
    pub(crate) fn list(items: Vec<Self>) -> Self {
        Self::List(List::owned(items))
    }

    /// An optional that has a value.
    pub(crate) fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The name of its type; for a message literal, the message's name.
    #[must_use]
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(map) => map.type_name().unwrap_or("map"),
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What `size()` counts: characters, bytes, items, members; 1 of all else, as costs count it.
    pub(crate) fn size(&self) -> u64 {
        let size = match self {
            Self::String(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            Self::Optional(Some(value)) => return value.size(),
            Self::Opaque(Opaque::Url(_)) => 1,
            // Addresses count their bytes.
            Self::Opaque(Opaque::Ip(ip)) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Self::Opaque(Opaque::Cidr(cidr)) => {
                if cidr.network().is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        };
        size as u64
    }
}
