//! The `pharos` binary: command line, configuration and wiring, nothing else.
//!
//! `pharos server` starts every component of a control plane and a node in one process, `pharos agent` those of a node
//! alone; the other commands are small clients of a running server. What a component does is in its own crate; here is
//! only which of them run, in which order, and what each is given ([`server`]).

#![expect(unreachable_pub, reason = "nothing is outside of a binary")]

mod cli; // What can be said,
mod settings; // also in files;
mod commands; // the small commands,
mod server; // the big ones,
mod admission_config;
mod agent;
mod node; // what both of them start on a machine,
mod datastore;
mod socket; // how the small commands reach them,
mod image_socket;
mod store_socket;
mod admin;
mod door; // how the API server is reached,
mod join; // how a node joins,
mod observe; // and what else is served there.
mod files;
mod logging;
mod audit;
mod auth;
mod tracing_config;
mod demo;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

/// glibc's per-thread arenas keep memory that was freed after a burst; jemalloc gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A container's shim is this binary too. It must stay single-threaded, so it is told apart before anything else.
    if let Some(code) = pharos_runtime::shim_main(std::env::args_os()) {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    if let Some(code) = demo::tar::main(std::env::args_os()) {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments = settings::with_files(std::env::args_os().collect())?;
    let cli = Cli::parse_from(arguments);
    // One TLS provider for all: see deny.toml.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("pharos").build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Server(options) => server::run(*options).await,
            Command::Agent(options) => agent::run(*options).await,
            Command::Image { command } => commands::image::run(command).await,
            Command::Store { command } => commands::store::run(command).await,
            Command::SecretsEncrypt { command } => commands::store::secrets_encrypt(command).await,
            Command::Kubeconfig(options) => commands::kubeconfig::run(&options),
            Command::Token { command, client } => commands::token::run(command, &client).await,
            Command::Logs(options) => commands::logs::run(options).await,
            Command::Query(options) => commands::query::run(options).await,
            Command::Check(options) => commands::check::run(&options),
            Command::Completion { shell } => commands::completion(shell),
            Command::Demo(options) => demo::run(options).await,
        }
    })
}
