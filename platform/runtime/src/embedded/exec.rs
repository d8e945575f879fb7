//! The helper process of one exec: joins a container's cgroups and namespaces, runs the command there and reports its end.
//!
//! Standard input is a message socket to the server. The server sends one message with a memory file (the [`ExecJob`]) and, in
//! order, the command's stdin, stdout and stderr; the helper answers [`ExecReport`]s, the terminal's master descriptor along with
//! `Started`. When the socket closes the command is killed. libcontainer's own exec is not used: it drops the container's seccomp
//! profile.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use libcontainer::seccomp::initialize_seccomp;
use libcontainer::syscall::syscall::create_syscall;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chdir, execve, fork, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::embedded::sys;

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExecJob {
    /// The container's directory, with its specification.
    pub(crate) dir: PathBuf,
    /// The container's first process.
    pub(crate) pid: i32,
    pub(crate) args: Vec<String>,
    pub(crate) tty: bool,
}

/// How it goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ExecReport {
    Started { pid: i32 },
    Failed { error: String },
    Exited { code: i32 },
}

/// Runs the helper.
pub(crate) fn run() -> i32 {
    sys::detach();
    let socket = io::stdin();
    let report = match serve(&socket) {
        Ok(code) => ExecReport::Exited { code },
        Err(error) => ExecReport::Failed { error },
    };
    // When the server is gone nobody wants to know.
    let _ = send(&socket, &report, None);
    0
}

fn send(socket: &impl AsRawFd, report: &ExecReport, fd: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(report)?;
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    sys::send_with_fds(socket, &bytes, &fds)
}

fn serve(socket: &(impl AsRawFd + AsFd)) -> Result<i32, String> {
    let (_, fds) = sys::receive_with_fds(socket).map_err(|error| format!("receive job: {error}"))?;
    let mut fds = fds.into_iter();
    let mut file = File::from(fds.next().ok_or("no job")?);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| format!("read job: {error}"))?;
    drop(file);
    let job: ExecJob = serde_json::from_slice(&bytes).map_err(|error| format!("parse job: {error}"))?;
    let streams: Vec<OwnedFd> = fds.collect();

    let spec = Spec::load(job.dir.join("config.json")).map_err(|error| format!("read specification: {error}"))?;
    let process = spec.process().clone().ok_or("the specification has no process")?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let target = sys::pidfd_open(job.pid).map_err(|_| "container is not running".to_owned())?;
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", job.pid)).unwrap_or_default();
    let cgroups: Vec<File> = cgroup::procs_files_of(job.pid)
        .map_err(|error| error.chain())?
        .iter()
        .map(|path| fs::OpenOptions::new().write(true).open(path).map_err(|error| format!("open {}: {error}", path.display())))
        .collect::<Result<_, _>>()?;
    let null =
        fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj").map_err(|error| format!("set OOM score: {error}"))?;

    // From here on this process sees the container's files.
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    setns(&target, all).map_err(|error| format!("join namespaces: {error}"))?;
    // Its number could have been taken by another process since; then it is dead and this end of it readable.
    if ended(&target) {
        return Err("container is not running".to_owned());
    }

    let (terminal, peer) = if job.tty {
        let master =
            File::options().read(true).write(true).open("/dev/pts/ptmx").map_err(|error| format!("open terminal: {error}"))?;
        let master = OwnedFd::from(master);
        let peer = sys::open_terminal_peer(&master).map_err(|error| format!("open terminal: {error}"))?;
        (Some(master), Some(peer))
    } else {
        (None, None)
    };
    let (mut failed, report_failure) = io::pipe().map_err(|error| format!("make pipe: {error}"))?;
    let child = Child {
        job: &job,
        process: &process,
        seccomp: seccomp.as_ref(),
        cgroups: &cgroups,
        score: score.trim(),
        score_file: &null,
        streams: &streams,
        peer: peer.as_ref(),
    };
    let pid = child.spawn(report_failure)?;
    drop(streams);
    drop(peer);
    let mut error = String::new();
    failed.read_to_string(&mut error).map_err(|error| format!("start command: {error}"))?;
    if !error.is_empty() {
        let _ = waitpid(pid, None);
        return Err(error);
    }
    let _ = send(socket, &ExecReport::Started { pid: pid.as_raw() }, terminal.as_ref());
    drop(terminal);
    Ok(wait(socket, pid))
}

fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Waits for the command, killing it when the server goes.
fn wait(socket: &impl AsFd, pid: Pid) -> i32 {
    if let Ok(exit) = sys::pidfd_open(pid.as_raw()) {
        let mut fds = [PollFd::new(exit.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE).is_err() {}
        if fds[0].revents().is_none_or(|events| events.is_empty()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 255,
        }
    }
}

struct Child<'a> {
    job: &'a ExecJob,
    process: &'a Process,
    seccomp: Option<&'a LinuxSeccomp>,
    cgroups: &'a [File],
    score: &'a str,
    score_file: &'a File,
    streams: &'a [OwnedFd],
    peer: Option<&'a OwnedFd>,
}

impl Child<'_> {
    #[expect(unsafe_code, reason = "fork")]
    fn spawn(&self, mut report: io::PipeWriter) -> Result<Pid, String> {
        // SAFETY: this process has one thread.
        match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                let error = match self.become_command() {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                let _ = report.write_all(error.as_bytes());
                sys::exit_now(127)
            }
        }
    }

    fn become_command(&self) -> Result<std::convert::Infallible, String> {
        let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        for mut file in self.cgroups {
            // Zero is the writer itself, whatever its number here.
            file.write_all(b"0").map_err(step("join cgroup"))?;
        }
        let mut file = self.score_file;
        // It is the parent's file: of no use where /proc is another; a failure leaves the inherited score.
        let _ = file.write_all(self.score.as_bytes());
        setsid().map_err(|error| format!("make session: {error}"))?;
        match self.peer {
            Some(peer) => {
                sys::set_controlling_terminal(peer).map_err(step("set terminal"))?;
                for number in 0..3 {
                    sys::become_standard(peer, number).map_err(step("set streams"))?;
                }
            }
            None => {
                for (number, stream) in (0..3).zip(self.streams) {
                    sys::become_standard(stream, number).map_err(step("set streams"))?;
                }
            }
        }
        let syscall = create_syscall();
        for limit in self.process.rlimits().iter().flatten() {
            syscall.set_rlimit(limit).map_err(|error| format!("set limit: {error}"))?;
        }
        let cwd = self.process.cwd();
        let entered = chdir(cwd);
        let user = self.process.user();
        let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
        setgroups(&groups).map_err(|error| format!("set groups: {error}"))?;
        let no_new_privs = self.process.no_new_privileges() == Some(true);
        if no_new_privs {
            prctl::set_no_new_privs().map_err(|error| format!("set no_new_privs: {error}"))?;
        }
        let load = || match self.seccomp {
            Some(profile) => initialize_seccomp(profile).map(drop).map_err(|error| format!("load seccomp profile: {error}")),
            None => Ok(()),
        };
        // Without no_new_privs loading it is a privilege of its own, so it comes before privileges go.
        if !no_new_privs {
            load()?;
        }
        prctl::set_keepcaps(true).map_err(|error| format!("keep capabilities: {error}"))?;
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        setresgid(gid, gid, gid).map_err(|error| format!("set group: {error}"))?;
        setresuid(uid, uid, uid).map_err(|error| format!("set user: {error}"))?;
        prctl::set_keepcaps(false).map_err(|error| format!("drop capabilities: {error}"))?;
        reset_effective(syscall.as_ref()).map_err(|error| format!("set capabilities: {error}"))?;
        if let Some(capabilities) = self.process.capabilities() {
            drop_privileges(capabilities, syscall.as_ref()).map_err(|error| format!("set capabilities: {error}"))?;
        }
        if entered.is_err() {
            chdir(cwd).map_err(|error| format!("enter {}: {error}", cwd.display()))?;
        }
        if no_new_privs {
            load()?;
        }
        self.exec()
    }

    fn exec(&self) -> Result<std::convert::Infallible, String> {
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        for entry in self.process.env().iter().flatten() {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            env.insert(name.to_owned(), value.to_owned());
        }
        env.entry("HOME".to_owned()).or_insert_with(|| home(self.process.user().uid()));
        if self.job.tty {
            env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
        }
        let name = self.job.args.first().ok_or("no command")?;
        let not_found = || format!("exec: {name:?}: executable file not found in $PATH");
        let program = if name.contains('/') {
            PathBuf::from(name)
        } else {
            let path = env.get("PATH").cloned().unwrap_or_default();
            path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.is_file()).ok_or_else(not_found)?
        };
        let strings = |list: Vec<String>| list.iter().map(|one| sys::c_string(one)).collect::<io::Result<Vec<_>>>();
        let bad = |error: io::Error| format!("exec: {error}");
        let program = sys::c_string(&program.to_string_lossy()).map_err(bad)?;
        let args = strings(self.job.args.clone()).map_err(bad)?;
        let env = strings(env.iter().map(|(name, value)| format!("{name}={value}")).collect()).map_err(bad)?;
        sys::default_sigpipe(true);
        execve(&program, &args, &env).map_err(|error| match error {
            nix::errno::Errno::ENOENT => format!("exec: {name:?}: stat {name}: no such file or directory"),
            nix::errno::Errno::EACCES => format!("exec: {name:?}: permission denied"),
            error => format!("exec {name:?}: {error}"),
        })
    }
}

fn home(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.to_string().as_str()))
        .and_then(|fields| fields.get(5).map(|home| (*home).to_owned()))
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| if uid == 0 { "/root".to_owned() } else { "/".to_owned() })
}
