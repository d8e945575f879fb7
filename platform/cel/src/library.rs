//! Functions beyond the operators: the standard ones, cel-go's extensions and Kubernetes' libraries.

pub(crate) mod authorizer;
pub(crate) mod cidr;
pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod lists;
pub(crate) mod semver;
pub(crate) mod strings;
pub(crate) mod times;
pub(crate) mod url;
