//! The questions that `authorizer` asks of whoever evaluates.

/// Answers `authorizer.group('').resource('pods').namespace('x').check('get').allowed()` and the like, at once.
pub trait Authorizer: Send + Sync {
    /// Whether the user of the request may do that.
    fn authorize(&self, attributes: &CheckAttributes) -> CheckDecision;

    /// What the request under admission asks for, of which `authorizer.requestResource` speaks.
    fn request_resource(&self) -> Option<CheckAttributes>;
}

/// What a check asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckAttributes {
    /// The user, when `authorizer.serviceAccount(namespace, name)` named another than that of the request.
    pub service_account: Option<(String, String)>,
    /// A path, for what is no resource; the fields of a resource are empty then.
    pub path: Option<String>,
    /// The verb, as in `get`, or the HTTP method in lower case for a path.
    pub verb: String,
    /// The resource's API group.
    pub group: String,
    /// Its plural.
    pub resource: String,
    /// Its subresource, if any.
    pub subresource: String,
    /// The object's namespace, empty for all or none.
    pub namespace: String,
    /// The object's name, empty for any.
    pub name: String,
    /// A field selector, as written.
    pub field_selector: Option<String>,
    /// A label selector, as written.
    pub label_selector: Option<String>,
}

/// What the answer is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckDecision {
    /// Allowed.
    pub allowed: bool,
    /// Expressly denied (otherwise: no opinion).
    pub denied: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while deciding, if anything.
    pub error: Option<String>,
}
