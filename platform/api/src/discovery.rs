//! Discovery documents made from a list of kinds: the legacy ones and the aggregated ones.
// signatures; the bodies follow
pub fn api_versions(server_address: &str) -> Value;                              // GET /api (APIVersions)
pub fn group_list(registry: &Registry) -> Value;                                 // GET /apis (APIGroupList)
pub fn group(registry: &Registry, group: &str) -> Option<Value>;                 // GET /apis/G (APIGroup)
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value>; // GET /api/v1, /apis/G/V (APIResourceList)
pub enum Aggregated { V2, V2Beta1 }
pub fn aggregated(registry: &Registry, core: bool, version: Aggregated) -> Value; // GET /api (core) or /apis as APIGroupDiscoveryList
pub fn storage_version_hash(kind: &Kind) -> String;
