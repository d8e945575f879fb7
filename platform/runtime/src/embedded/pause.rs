//! The process that holds a sandbox' namespaces.
//!
//! A helper process makes the namespaces, then becomes a program of a few hundred bytes that ignores its children (so the
//! kernel reaps them when it is the first process of a shared PID namespace) and sleeps for good. Docker's pause image is the
//! same program.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, execv, fork, getpid, sethostname};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::embedded::sys;
use crate::types::Map;

/// What the helper is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PauseConfig {
    /// Where the network namespace is to be mounted; none for the node's network.
    pub(crate) netns: Option<PathBuf>,
    /// Host name, set in a UTS namespace of its own unless the network is the node's.
    pub(crate) hostname: String,
    /// Whether the pod has an IPC namespace.
    pub(crate) ipc: bool,
    /// Whether its containers share a PID namespace.
    pub(crate) shared_pid: bool,
    /// Sysctls of these namespaces.
    pub(crate) sysctls: Map,
    /// The cgroup it lives in.
    pub(crate) cgroup: String,
    /// The program it becomes.
    pub(crate) program: PathBuf,
}

/// What the helper answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PauseAnswer {
    pub(crate) pid: i32,
    pub(crate) error: Option<String>,
}

/// Runs the helper; its configuration is the argument, its answer goes to standard output.
pub(crate) fn run(config: &str) -> i32 {
    sys::detach();
    let error = match serde_json::from_str::<PauseConfig>(config) {
        Ok(config) => match hold(&config) {
            Ok(never) => match never {},
            Err(error) => error,
        },
        Err(error) => format!("parse sandbox configuration: {error}"),
    };
    answer(&PauseAnswer { pid: 0, error: Some(error) });
    1
}

fn answer(answer: &PauseAnswer) {
    if let Ok(bytes) = serde_json::to_vec(answer) {
        // Whoever asked may be gone.
        let _ = io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush());
    }
}

fn hold(config: &PauseConfig) -> Result<std::convert::Infallible, String> {
    let mut flags = CloneFlags::empty();
    if config.netns.is_some() {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if config.ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    if config.shared_pid {
        flags |= CloneFlags::CLONE_NEWPID;
    }
    unshare(flags).map_err(|error| format!("make namespaces: {error}"))?;
    if let Some(netns) = &config.netns {
        let none: Option<&str> = None;
        mount(Some("/proc/self/ns/net"), netns, none, MsFlags::MS_BIND, none)
            .map_err(|error| format!("mount network namespace at {}: {error}", netns.display()))?;
        loopback_up().map_err(|error| format!("bring up the loopback interface: {error}"))?;
        if !config.hostname.is_empty() {
            sethostname(&config.hostname).map_err(|error| format!("set host name: {error}"))?;
        }
    }
    for (name, value) in &config.sysctls {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&file, value).map_err(|error| format!("set sysctl {name}={value}: {error}"))?;
    }
    cgroup::join(&config.cgroup, getpid().as_raw()).map_err(|error| error.chain())?;
    // As kubelet and containerd score a sandbox, as far as this process may.
    let score = crate::spec::allowed_oom_score(-998);
    fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(|error| format!("set OOM score: {error}"))?;
    if config.shared_pid {
        return in_new_pid_namespace(config);
    }
    let pid = getpid().as_raw();
    become_pause(config, pid)
}

/// Only a child is in the new PID namespace; the helper tells its number and goes.
#[expect(unsafe_code, reason = "fork")]
fn in_new_pid_namespace(config: &PauseConfig) -> Result<std::convert::Infallible, String> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Parent { child } => {
            answer(&PauseAnswer { pid: child.as_raw(), error: None });
            sys::exit_now(0);
        }
        ForkResult::Child => {
            // The parent answers.
            sys::detach();
            silence()?;
            exec(config)
        }
    }
}

fn become_pause(config: &PauseConfig, pid: i32) -> Result<std::convert::Infallible, String> {
    // Tried before success is told: after that nobody would hear of an error.
    if !config.program.exists() {
        return Err(format!("{} is gone", config.program.display()));
    }
    answer(&PauseAnswer { pid, error: None });
    silence()?;
    exec(config)
}

fn silence() -> Result<(), String> {
    let null =
        fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|error| format!("open /dev/null: {error}"))?;
    for number in 0..3 {
        sys::become_standard(&null, number).map_err(|error| format!("close streams: {error}"))?;
    }
    std::env::set_current_dir("/").map_err(|error| format!("leave directory: {error}"))
}

fn exec(config: &PauseConfig) -> Result<std::convert::Infallible, String> {
    let program = sys::c_string(&config.program.to_string_lossy()).map_err(|error| error.to_string())?;
    execv(&program, &[c"pause"]).map_err(|error| format!("run {}: {error}", config.program.display()))
}

#[expect(unsafe_code, reason = "interface ioctls")]
fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the kernel reads and writes one ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just filled in the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: the kernel reads one ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The program's instructions: position-independent, system calls only: rt_sigaction(SIGCHLD, {SIG_IGN}), then sleep for ever.
#[expect(unsafe_code, reason = "constant bytes, written as the instructions they are")]
mod instructions {
    #[cfg(target_arch = "x86_64")]
    std::arch::global_asm!(
        ".pushsection .rodata",
        ".globl pharos_pause_begin",
        "pharos_pause_begin:",
        "push 0",
        "push 0",
        "push 0",
        "push 1",
        "mov rsi, rsp",
        "xor edx, edx",
        "mov r10d, 8",
        "mov edi, 17",
        "mov eax, 13",
        "syscall",
        "2:",
        "mov eax, 34",
        "syscall",
        "jmp 2b",
        ".globl pharos_pause_end",
        "pharos_pause_end:",
        ".popsection",
    );
    #[cfg(target_arch = "aarch64")]
    std::arch::global_asm!(
        ".pushsection .rodata",
        ".p2align 2",
        ".globl pharos_pause_begin",
        "pharos_pause_begin:",
        "mov x4, #1",
        "stp x4, xzr, [sp, #-32]!",
        "stp xzr, xzr, [sp, #16]",
        "mov x0, #17",
        "mov x1, sp",
        "mov x2, #0",
        "mov x3, #8",
        "mov x8, #134",
        "svc #0",
        "2:",
        "mov x0, #0",
        "mov x1, #0",
        "mov x2, #0",
        "mov x3, #0",
        "mov x4, #0",
        "mov x8, #73",
        "svc #0",
        "b 2b",
        ".globl pharos_pause_end",
        "pharos_pause_end:",
        ".popsection",
    );

    unsafe extern "C" {
        pub(super) static pharos_pause_begin: u8;
        pub(super) static pharos_pause_end: u8;
    }
}

/// The pause program: an ELF file of one segment.
#[expect(unsafe_code, reason = "reading the program's own constant bytes")]
pub(crate) fn program() -> Vec<u8> {
    use instructions::{pharos_pause_begin, pharos_pause_end};
    // SAFETY: both symbols delimit one constant block in .rodata.
    let code = unsafe {
        let (begin, end) = (&raw const pharos_pause_begin, &raw const pharos_pause_end);
        std::slice::from_raw_parts(begin, end.offset_from(begin) as usize)
    };
    const BASE: u64 = 0x40_0000;
    const HEAD: u64 = 64 + 56;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let size = HEAD + code.len() as u64;
    let mut elf = Vec::with_capacity(size as usize);
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&2u16.to_le_bytes()); // executable
    elf.extend_from_slice(&machine.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&(BASE + HEAD).to_le_bytes()); // entry
    elf.extend_from_slice(&64u64.to_le_bytes()); // program headers
    elf.extend_from_slice(&0u64.to_le_bytes());
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1u32.to_le_bytes()); // load
    elf.extend_from_slice(&5u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}
