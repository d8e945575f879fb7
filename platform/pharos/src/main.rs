//! pharos
fn main() {}
