//! OpenAPI documents made from the schema table and a list of kinds.
// signatures; the bodies follow
pub struct Document { pub body: Vec<u8>, pub etag: String }  // JSON; etag is the quoted upper-case SHA-512 as upstream's
pub fn v2(registry: &Registry) -> Document;                                      // GET /openapi/v2
pub fn v3_index(registry: &Registry) -> Document;                                // GET /openapi/v3
pub fn v3_group(registry: &Registry, group: &str, version: &str) -> Option<Document>; // GET /openapi/v3/api/v1, /openapi/v3/apis/G/V
