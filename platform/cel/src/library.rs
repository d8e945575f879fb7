//! Functions beyond the standard ones: Kubernetes' libraries and cel-go's extensions.

pub(crate) mod authorizer;
pub(crate) mod cidr;
pub(crate) mod format;
pub(crate) mod semver;
pub(crate) mod url;
