//! Runs the embedded runtime's helper processes for tests, which have no `pharos` binary.

fn main() {
    std::process::exit(pharos_runtime::shim_main(std::env::args_os()).unwrap_or(2));
}
