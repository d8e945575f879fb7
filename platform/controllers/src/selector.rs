//! Selectors of typed objects, as the one implementation in `pharos-api` sees them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use pharos_api::selector;

/// A compiled selector.
#[derive(Clone, Debug)]
pub(crate) struct Selector(selector::LabelSelector);

impl Selector {
    /// An absent selector matches nothing, an empty one everything; so does upstream.
    ///
    /// # Errors
    /// With upstream's text.
    pub(crate) fn new(selector: Option<&LabelSelector>) -> Result<Self, String> {
        let value = selector.and_then(|s| serde_json::to_value(s).ok());
        selector::LabelSelector::from_value(value.as_ref()).map(Self).map_err(|error| error.0)
    }

    /// Requires exactly these labels; none match everything.
    pub(crate) fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        Self(selector::LabelSelector::from_labels(labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.0.is_everything()
    }

    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(|key| labels.get(key).map(String::as_str))
    }
}
