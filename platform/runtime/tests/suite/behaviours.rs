//! The behaviours, one function each.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use pharos_runtime::Error;
use pharos_runtime::types::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;

use crate::bench::{Bench, IMAGE, Outcome, check, shell};
use crate::registry::Registry;

pub(crate) type Behaviour = fn(&mut Bench) -> BoxFuture<'_, Outcome>;

macro_rules! behaviours {
    ($($name:ident)*) => {
        pub(crate) const ALL: &[(&str, Behaviour)] = &[$((stringify!($name), |bench| $name(bench).boxed())),*];
    };
}

behaviours! {
    run_exit_code_and_logs
    image_command_and_env
    start_error_is_told
    exit_codes_and_reasons
    sandbox_network_and_hostname
    sandbox_shares_namespaces
    shared_pid_namespace
    host_network
    stop_within_grace
    stop_kills_after_grace
    out_of_memory
    limits_are_set
    limits_are_updated
    mounts
    read_only_root
    users_and_groups
    capabilities
    no_new_privs
    seccomp_default_profile
    seccomp_unconfined
    unsupported_is_refused
    privileged
    exec_sync_output_and_code
    exec_timeout
    exec_streams
    exec_terminal_and_resize
    attach_with_stdin
    terminal_container
    log_rotation_and_reopen
    stats
    events_arrive
    list_and_filter
    restart_of_the_server
    exit_while_server_is_away
    images_load_list_remove
    pull_from_registry
    pull_with_credentials
    duplicates_are_refused
    resolv_conf
    shims_are_small
    many_containers
}

async fn run_exit_code_and_logs(bench: &mut Bench) -> Outcome {
    let (status, log) = bench.run("echo out; echo err >&2; printf tail", |_| {}).await?;
    check(status.exit_code == 0 && status.reason == "Completed" && status.signal == 0, &status)?;
    check(status.started_at.is_some() && status.finished_at >= status.started_at, &status)?;
    let mut sorted = log.clone();
    sorted.sort();
    check(sorted == ["stderr F err", "stdout F out", "stdout P tail"], &log)
}

async fn image_command_and_env(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let mut config = shell("");
    (config.command, config.args) = (Vec::new(), Vec::new());
    let id = bench.runtime.create_container(&sandbox, &config).await?;
    bench.runtime.start_container(&id).await?;
    let status = bench.ended(&id).await?;
    let log = bench.log(&status).await?;
    check(log == ["stdout F from the image"], &log)?;
    let (_, log) = bench
        .run("echo $FROM_IMAGE $X $HOME; pwd", |config| {
            config.envs = vec![("X".to_owned(), "a b".to_owned())];
            config.working_dir = "/new/dir".to_owned();
        })
        .await?;
    check(log == ["stdout F yes a b /root", "stdout F /new/dir"], &log)
}

async fn start_error_is_told(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let mut config = shell("x");
    config.command = vec!["/does/not/exist".to_owned()];
    let id = bench.runtime.create_container(&sandbox, &config).await?;
    let error = bench.runtime.start_container(&id).await.err().ok_or("started what does not exist")?;
    check(error.chain().contains("/does/not/exist"), error.chain())?;
    let status = bench.runtime.container_status(&id).await?;
    check(status.state == ContainerState::Exited && status.exit_code != 0, &status)?;
    check(["StartError", "ContainerCannotRun"].contains(&status.reason.as_str()), &status)
}

async fn exit_codes_and_reasons(bench: &mut Bench) -> Outcome {
    let (status, _) = bench.run("exit 3", |_| {}).await?;
    check(status.exit_code == 3 && status.reason == "Error", &status)?;
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |config| config.command = vec!["sh".into(), "-c".into()]).await?;
    bench.runtime.stop_container(&id, Duration::ZERO).await?;
    let status = bench.ended(&id).await?;
    check(status.exit_code == 137, &status)
}

async fn sandbox_network_and_hostname(bench: &mut Bench) -> Outcome {
    let pod = bench.pod();
    let sandbox = bench.runtime.run_pod_sandbox(&pod).await?;
    let netns = sandbox.netns.clone().ok_or("no network namespace")?;
    check(netns.exists() && sandbox.pid > 0, &sandbox)?;
    let status = bench.runtime.pod_sandbox_status(&sandbox.id).await?;
    check(status.state == PodSandboxState::Ready && status.metadata == pod.metadata, &status)?;
    let id = bench.start(&sandbox.id, "hostname; cat /etc/hostname; ifconfig lo | grep -c UP; ls /sys/class/net", |_| {}).await?;
    let status = bench.ended(&id).await?;
    let log = bench.log(&status).await?;
    let name = format!("stdout F {}", pod.hostname);
    check(log == [name.clone(), name, "stdout F 1".to_owned(), "stdout F lo".to_owned()], &log)?;
    bench.runtime.stop_pod_sandbox(&sandbox.id).await?;
    let status = bench.runtime.pod_sandbox_status(&sandbox.id).await?;
    check(status.state == PodSandboxState::NotReady, &status)?;
    bench.runtime.stop_pod_sandbox(&sandbox.id).await?;
    bench.runtime.remove_pod_sandbox(&sandbox.id).await?;
    bench.runtime.remove_pod_sandbox(&sandbox.id).await?;
    let gone = bench.runtime.pod_sandbox_status(&sandbox.id).await;
    check(gone.is_err_and(|error| error.is_not_found()), "sandbox is still there")
}

async fn sandbox_shares_namespaces(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let script =
        "for n in net ipc uts; do ls -l /proc/self/ns/$n | grep -o '[a-z]*:.*'; done; echo x > /dev/shm/shared; sleep 1000";
    let first = bench.start(&sandbox, script, |_| {}).await?;
    let second = bench.start(&sandbox, "sleep 1000", |_| {}).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let show = "for n in net ipc; do ls -l /proc/self/ns/$n | grep -o '[a-z]*:\\[.*'; done; cat /dev/shm/shared";
    let (a, b) = (bench.exec(&first, show).await?, bench.exec(&second, show).await?);
    check(a == b && a.0 == 0 && a.1.contains("net:["), (&a, &b))
}

async fn shared_pid_namespace(bench: &mut Bench) -> Outcome {
    let mut pod = bench.pod();
    pod.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    let sandbox = bench.runtime.run_pod_sandbox(&pod).await?.id;
    let shared = |config: &mut ContainerConfig| config.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    let first = bench.start(&sandbox, "sleep 1234", shared).await?;
    let second = bench.start(&sandbox, "sleep 100; true", shared).await?;
    let (_, text) = bench.exec(&second, "ps").await?;
    check(text.contains("sleep 1234") && text.contains("pause"), &text)?;
    bench.runtime.stop_container(&first, Duration::ZERO).await?;
    let (_, text) = bench.exec(&second, "ps").await?;
    check(!text.contains("sleep 1234"), &text)
}

async fn host_network(bench: &mut Bench) -> Outcome {
    let mut pod = bench.pod();
    pod.linux.security_context.namespace_options.network = NamespaceMode::Node;
    let sandbox = bench.runtime.run_pod_sandbox(&pod).await?;
    check(sandbox.netns.is_none(), &sandbox)?;
    let id = bench
        .start(&sandbox.id, "hostname; ls -l /proc/self/ns/net", |config| {
            config.linux.security_context.namespace_options.network = NamespaceMode::Node;
        })
        .await?;
    let status = bench.ended(&id).await?;
    let log = bench.log(&status).await?.join("\n");
    let own = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    check(log.contains(&own) && log.contains(&host), &log)
}

async fn stop_within_grace(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "trap 'echo bye; exit 7' TERM; echo up; while true; do sleep 0.05; done", |_| {}).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    bench.runtime.stop_container(&id, Duration::from_secs(20)).await?;
    check(started.elapsed() < Duration::from_secs(5), started.elapsed())?;
    let status = bench.ended(&id).await?;
    check(status.exit_code == 7, &status)?;
    let log = bench.log(&status).await?;
    check(log == ["stdout F up", "stdout F bye"], &log)?;
    bench.runtime.stop_container(&id, Duration::from_secs(20)).await?;
    Ok(())
}

async fn stop_kills_after_grace(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "trap '' TERM; while true; do sleep 0.1; done", |_| {}).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    bench.runtime.stop_container(&id, Duration::from_secs(1)).await?;
    let elapsed = started.elapsed();
    check(elapsed >= Duration::from_millis(900) && elapsed < Duration::from_secs(6), elapsed)?;
    let status = bench.ended(&id).await?;
    check(status.exit_code == 137, &status)
}

async fn out_of_memory(bench: &mut Bench) -> Outcome {
    let (status, _) = bench
        .run("exec dd if=/dev/zero of=/dev/null bs=200M count=1", |config| {
            config.linux.resources.memory_limit_in_bytes = 16 << 20;
            config.linux.resources.memory_swap_limit_in_bytes = 16 << 20;
        })
        .await?;
    check(status.exit_code == 137 && status.reason == "OOMKilled", &status)
}

/// A limit as the container's cgroup has it.
fn cgroup_file(status: &ContainerStatus, v1: (&str, &str), v2: &str) -> Outcome<String> {
    let table = std::fs::read_to_string(format!("/proc/{}/cgroup", status.pid))?;
    for line in table.lines() {
        let parts: Vec<&str> = line.splitn(3, ':').collect();
        let path = parts[2].trim_start_matches('/');
        if parts[1].split(',').any(|name| name == v1.0) {
            return Ok(std::fs::read_to_string(PathBuf::from("/sys/fs/cgroup").join(v1.0).join(path).join(v1.1))?
                .trim()
                .to_owned());
        }
    }
    let path = table.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no cgroup")?;
    Ok(std::fs::read_to_string(PathBuf::from("/sys/fs/cgroup").join(path).join(v2))?.trim().to_owned())
}

async fn limits_are_set(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench
        .start(&sandbox, "sleep 1000", |config| {
            config.linux.resources = LinuxContainerResources {
                cpu_shares: 512,
                cpu_quota: 50_000,
                cpu_period: 100_000,
                cpuset_cpus: "0".to_owned(),
                memory_limit_in_bytes: 64 << 20,
                pids_limit: 20,
                oom_score_adj: 500,
                ..LinuxContainerResources::default()
            };
            config.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 100, hard: 200 }];
        })
        .await?;
    let status = bench.runtime.container_status(&id).await?;
    check(status.resources.memory_limit_in_bytes == 64 << 20, &status.resources)?;
    for (v1, v2, expect) in [
        (("memory", "memory.limit_in_bytes"), "memory.max", "67108864"),
        (("pids", "pids.max"), "pids.max", "20"),
        (("cpuset", "cpuset.cpus"), "cpuset.cpus", "0"),
    ] {
        let got = cgroup_file(&status, v1, v2)?;
        check(got == expect, (v1, &got))?;
    }
    let quota = cgroup_file(&status, ("cpu", "cpu.cfs_quota_us"), "cpu.max")?;
    check(["50000", "50000 100000"].contains(&quota.as_str()), &quota)?;
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", status.pid))?;
    check(score.trim() == "500", &score)?;
    // Of the container itself: Docker's runc may give an exec the hard limit for both, as the Go runtime raises its own.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", status.pid))?;
    let files: Vec<&str> =
        limits.lines().filter_map(|line| line.strip_prefix("Max open files")).flat_map(str::split_whitespace).collect();
    check(files.starts_with(&["100", "200"]), &files)
}

async fn limits_are_updated(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |config| config.linux.resources.memory_limit_in_bytes = 64 << 20).await?;
    let new = LinuxContainerResources { memory_limit_in_bytes: 128 << 20, cpu_shares: 100, ..Default::default() };
    bench.runtime.update_container_resources(&id, &new).await?;
    let status = bench.runtime.container_status(&id).await?;
    check(status.resources.memory_limit_in_bytes == 128 << 20, &status.resources)?;
    let got = cgroup_file(&status, ("memory", "memory.limit_in_bytes"), "memory.max")?;
    check(got == "134217728", &got)
}

async fn mounts(bench: &mut Bench) -> Outcome {
    let host = bench.dir.join("volume");
    std::fs::create_dir_all(host.join("sub"))?;
    std::fs::write(host.join("file"), "content\n")?;
    let file = host.join("file");
    let at = |container: &str, host: &std::path::Path, readonly: bool| Mount {
        container_path: container.into(),
        host_path: host.to_owned(),
        readonly,
        ..Mount::default()
    };
    let script = "cat /data/file; echo new > /data/sub/made; echo x > /ro/file || echo refused; cat /etc/one";
    let (status, log) = bench
        .run(script, |config| {
            config.mounts = vec![at("/data", &host, false), at("/ro", &host, true), at("/etc/one", &file, true)]
        })
        .await?;
    check(status.exit_code == 0, (&status, &log))?;
    check(log.iter().filter(|line| *line == "stdout F content").count() == 2, &log)?;
    check(log.contains(&"stdout F refused".to_owned()), &log)?;
    check(std::fs::read_to_string(host.join("sub/made"))? == "new\n", "file on the node")
}

async fn read_only_root(bench: &mut Bench) -> Outcome {
    let (_, log) = bench
        .run("touch /x || echo refused; touch /dev/shm/y && echo allowed", |config| {
            config.linux.security_context.readonly_rootfs = true;
        })
        .await?;
    check(log.contains(&"stdout F refused".to_owned()) && log.contains(&"stdout F allowed".to_owned()), &log)
}

async fn users_and_groups(bench: &mut Bench) -> Outcome {
    let (status, log) = bench
        .run("id -u; id -g; id -G; echo $HOME", |config| {
            config.linux.security_context.run_as_username = "web".to_owned();
            config.linux.security_context.supplemental_groups = vec![55];
        })
        .await?;
    check(log == ["stdout F 101", "stdout F 102", "stdout F 102 7 55", "stdout F /home/web"], (&log, &status.user))?;
    let user = LinuxContainerUser { uid: 101, gid: 102, supplemental_groups: vec![102, 7, 55] };
    check(status.user == user, &status.user)?;
    let (_, log) = bench
        .run("id -u; id -g", |config| {
            config.linux.security_context.run_as_user = Some(4000);
            config.linux.security_context.run_as_group = Some(5000);
        })
        .await?;
    check(log == ["stdout F 4000", "stdout F 5000"], &log)?;
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |config| config.linux.security_context.run_as_user = Some(101)).await?;
    let (_, text) = bench.exec(&id, "id -u; id -g").await?;
    check(text == "101\n102\n", &text)
}

async fn effective(bench: &mut Bench, change: impl FnOnce(&mut ContainerConfig)) -> Outcome<(u64, u64)> {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "grep CapEff /proc/self/status; sleep 1000", change).await?;
    let parse = |text: &str| u64::from_str_radix(text.split_whitespace().last().unwrap_or_default(), 16);
    let (_, exec) = bench.exec(&id, "grep CapEff /proc/self/status").await?;
    let status = bench.runtime.container_status(&id).await?;
    let log = bench.log(&status).await?.join("");
    Ok((parse(&log)?, parse(exec.trim())?))
}

async fn capabilities(bench: &mut Bench) -> Outcome {
    let default = effective(bench, |_| {}).await?;
    check(default == (0xa80425fb, 0xa80425fb), default)?;
    let changed = effective(bench, |config| {
        config.linux.security_context.capabilities =
            Capability { add_capabilities: vec!["NET_ADMIN".to_owned()], drop_capabilities: vec!["ALL".to_owned()] };
    })
    .await?;
    check(changed == (1 << 12, 1 << 12), changed)
}

async fn no_new_privs(bench: &mut Bench) -> Outcome {
    let script = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status";
    let (_, log) = bench
        .run(script, |config| {
            config.linux.security_context.no_new_privs = true;
            config.linux.security_context.seccomp = SecurityProfile::RuntimeDefault;
        })
        .await?;
    check(log == ["stdout F NoNewPrivs:\t1", "stdout F Seccomp:\t2"], &log)?;
    let (_, log) = bench.run(script, |_| {}).await?;
    check(log == ["stdout F NoNewPrivs:\t0", "stdout F Seccomp:\t0"], &log)
}

async fn seccomp_default_profile(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let script = "unshare -U true || echo refused; (echo sub); sleep 1000";
    let id =
        bench.start(&sandbox, script, |config| config.linux.security_context.seccomp = SecurityProfile::RuntimeDefault).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let status = bench.runtime.container_status(&id).await?;
    let log = bench.log(&status).await?;
    check(log.contains(&"stdout F refused".to_owned()) && log.contains(&"stdout F sub".to_owned()), &log)?;
    // A command run later is under the same profile.
    let (_, text) = bench.exec(&id, "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null || echo refused").await?;
    check(text == "Seccomp:\t2\nrefused\n", &text)
}

async fn seccomp_unconfined(bench: &mut Bench) -> Outcome {
    let (_, log) = bench.run("unshare -U echo done", |_| {}).await?;
    check(log == ["stdout F done"], &log)
}

async fn unsupported_is_refused(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let refuse = async |bench: &Bench, change: fn(&mut ContainerConfig)| {
        let mut config = shell("true");
        change(&mut config);
        match bench.runtime.create_container(&sandbox, &config).await {
            Err(Error::Unsupported(_) | Error::InvalidArgument(_) | Error::NotFound { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    refuse(bench, |config| config.linux.security_context.seccomp = SecurityProfile::Localhost("/no/profile".to_owned())).await?;
    refuse(bench, |config| config.linux.security_context.capabilities.add_capabilities = vec!["NOPE".to_owned()]).await?;
    refuse(bench, |config| config.linux.security_context.run_as_username = "nobody-here".to_owned()).await?;
    refuse(bench, |config| config.image = "pharos.test/none".into()).await?;
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        refuse(bench, |config| config.linux.security_context.apparmor = SecurityProfile::Localhost("x".to_owned())).await?;
    }
    let left =
        bench.runtime.list_containers(&ContainerFilter { pod_sandbox_id: Some(sandbox.clone()), ..Default::default() }).await?;
    check(left.is_empty(), &left)
}

async fn privileged(bench: &mut Bench) -> Outcome {
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim().to_owned();
    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?.trim().parse()?;
    if bench.runtime.version().await?.runtime_name == "docker" && u64::from_str_radix(&own, 16)? != (2 << last) - 1 {
        eprintln!("SKIPPED: Docker gives a privileged container every capability, and this machine's root lacks some");
        return Ok(());
    }
    let caps = effective(bench, |config| config.linux.security_context.privileged = true).await?;
    check(caps.0 == caps.1 && caps.0 & (1 << 21) != 0, caps)?;
    let (status, log) = bench
        .run("mkdir /m && mount -t tmpfs none /m && test -e /dev/kmsg && echo done", |config| {
            config.linux.security_context.privileged = true;
        })
        .await?;
    check(log == ["stdout F done"], (&log, &status))
}

async fn exec_sync_output_and_code(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |_| {}).await?;
    let command = ["sh", "-c", "echo out; echo err >&2; exit 5"].map(str::to_owned);
    let response = bench.runtime.exec_sync(&id, &command, Duration::from_secs(10)).await?;
    check(response.stdout == b"out\n" && response.stderr == b"err\n" && response.exit_code == 5, &response)?;
    let missing = bench.runtime.exec_sync(&id, &["nothing-here".to_owned()], Duration::from_secs(10)).await;
    match missing {
        Err(error) => check(error.chain().contains("nothing-here"), error.chain())?,
        Ok(response) => check(response.exit_code == 127 || response.exit_code == 126, &response)?,
    }
    bench.runtime.stop_container(&id, Duration::ZERO).await?;
    let dead = bench.runtime.exec_sync(&id, &command, Duration::from_secs(10)).await;
    check(matches!(dead, Err(Error::FailedPrecondition(_))), &dead)
}

async fn exec_timeout(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |_| {}).await?;
    let started = Instant::now();
    let result = bench.runtime.exec_sync(&id, &["sleep".to_owned(), "777".to_owned()], Duration::from_millis(500)).await;
    check(matches!(result, Err(Error::DeadlineExceeded { .. })), &result)?;
    check(started.elapsed() < Duration::from_secs(5), started.elapsed())?;
    for _ in 0..50 {
        let (_, text) = bench.exec(&id, "ps").await?;
        if !text.contains("sleep 777") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the command is still running".into())
}

async fn exec_streams(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |_| {}).await?;
    let (mut stdin, their_stdin) = duplex(1 << 16);
    let (mut stdout, their_stdout) = duplex(1 << 16);
    let streams = Streams { stdin: Some(Box::new(their_stdin)), stdout: Some(Box::new(their_stdout)), ..Streams::default() };
    let request = ExecRequest { container_id: id, cmd: vec!["wc".into(), "-c".into()], tty: false };
    let feed = async {
        for _ in 0..100 {
            stdin.write_all(&[b'x'; 10_000]).await?;
        }
        stdin.shutdown().await?;
        drop(stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text).await?;
        Outcome::Ok(text)
    };
    let (code, text) = tokio::join!(bench.runtime.exec(&request, streams), feed);
    let (code, text) = (code?, text?);
    check(code == 0 && text.trim() == "1000000", (code, text))
}

async fn exec_terminal_and_resize(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |_| {}).await?;
    let (mut stdin, their_stdin) = duplex(1 << 16);
    let (mut stdout, their_stdout) = duplex(1 << 16);
    let (sizes, resize) = tokio::sync::mpsc::channel(4);
    let streams =
        Streams { stdin: Some(Box::new(their_stdin)), stdout: Some(Box::new(their_stdout)), stderr: None, resize: Some(resize) };
    let request = ExecRequest { container_id: id, cmd: vec!["sh".into()], tty: true };
    let talk = async {
        sizes.send(TerminalSize { width: 111, height: 42 }).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stdin.write_all(b"stty size; tty; exit 9\n").await?;
        let mut text = String::new();
        stdout.read_to_string(&mut text).await?;
        drop(stdin);
        Outcome::Ok(text)
    };
    let (code, text) = tokio::join!(bench.runtime.exec(&request, streams), talk);
    let (code, text) = (code?, text?);
    check(code == 9 && text.contains("42 111") && text.contains("/dev/pts/"), (code, text))
}

async fn attach_with_stdin(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench
        .start(&sandbox, "while read line; do echo got $line; echo e >&2; done; echo end", |config| {
            (config.stdin, config.stdin_once) = (true, true);
        })
        .await?;
    let (mut stdin, their_stdin) = duplex(1 << 16);
    let (mut stdout, their_stdout) = duplex(1 << 16);
    let (mut stderr, their_stderr) = duplex(1 << 16);
    let streams = Streams {
        stdin: Some(Box::new(their_stdin)),
        stdout: Some(Box::new(their_stdout)),
        stderr: Some(Box::new(their_stderr)),
        resize: None,
    };
    let talk = async {
        stdin.write_all(b"a\nb\n").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stdin.shutdown().await?;
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        stdout.read_to_string(&mut out).await?;
        stderr.read_to_string(&mut err).await?;
        Outcome::Ok((out, err))
    };
    let (attached, text) = tokio::join!(bench.runtime.attach(&id, streams), talk);
    attached?;
    check(text? == ("got a\ngot b\nend\n".to_owned(), "e\ne\n".to_owned()), "attached output")?;
    let status = bench.ended(&id).await?;
    check(status.exit_code == 0, &status)?;
    let log = bench.log(&status).await?;
    check(log.contains(&"stdout F got b".to_owned()) && log.contains(&"stdout F end".to_owned()), &log)
}

async fn terminal_container(bench: &mut Bench) -> Outcome {
    let (status, log) = bench.run("tty; test -t 1 && echo terminal; echo to err >&2", |config| config.tty = true).await?;
    check(status.exit_code == 0 && status.tty, &status)?;
    let text = log.join("\n").replace('\r', "");
    check(text.contains("stdout F terminal") && text.contains("stdout F to err"), &log)
}

async fn log_rotation_and_reopen(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench
        .start(
            &sandbox,
            "for i in $(seq 1 300); do echo line $i xxxxxxxxxxxxxxxxxxxxxxxxxxx; done; while true; do echo tick; sleep 0.1; done",
            |config| {
                config.log_rotation = LogRotation { max_size_bytes: 4096, max_files: 3 };
            },
        )
        .await?;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let status = bench.runtime.container_status(&id).await?;
    let dir = status.log_path.parent().ok_or("no log directory")?;
    let files = std::fs::read_dir(dir)?.count();
    check(files == 3, files)?;
    check(status.log_path.metadata()?.len() <= 4200, status.log_path.metadata()?.len())?;
    let moved = dir.join("moved");
    std::fs::rename(&status.log_path, &moved)?;
    bench.runtime.reopen_container_log(&id).await?;
    let size = moved.metadata()?.len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    check(moved.metadata()?.len() <= size + 60, "the moved file goes on")?;
    check(status.log_path.metadata()?.len() > 0, "the new file is empty")
}

async fn stats(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench
        .start(
            &sandbox,
            "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; for i in $(seq 1 20000); do :; done; sleep 1000",
            |config| {
                config.linux.resources.memory_limit_in_bytes = 64 << 20;
            },
        )
        .await?;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let stats = bench.runtime.container_stats(&id).await?;
    check(stats.cgroup.cpu.usage_core_nano_seconds > 1_000_000, &stats)?;
    check(stats.cgroup.memory.usage_bytes > 0 && stats.cgroup.memory.limit_bytes == 64 << 20, &stats)?;
    check(stats.cgroup.process.process_count >= 1, &stats)?;
    check(stats.writable_layer.used_bytes >= 3 << 20, &stats)?;
    let list = bench.runtime.list_container_stats(&ContainerFilter { id: Some(id.clone()), ..Default::default() }).await?;
    check(list.len() == 1, &list)?;
    let pod = bench.runtime.pod_sandbox_stats(&sandbox).await?;
    check(pod.cgroup.memory.usage_bytes >= stats.cgroup.memory.rss_bytes && pod.pid > 0, &pod)?;
    let space = bench.runtime.image_fs_info().await?;
    check(space.capacity_bytes > 0 && space.image.used_bytes > 0, &space)
}

async fn events_arrive(bench: &mut Bench) -> Outcome {
    let mut events = bench.runtime.events().await?;
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "exit 4", |_| {}).await?;
    bench.ended(&id).await?;
    bench.runtime.remove_container(&id).await?;
    bench.runtime.remove_pod_sandbox(&sandbox).await?;
    let mut seen = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(5), events.next()).await {
        let done = event.id == sandbox && event.kind == ContainerEventKind::Deleted;
        if event.pod_sandbox_id == sandbox {
            check(!event.pod_uid.is_empty(), &event)?;
            seen.push((event.id == sandbox, event.kind));
        }
        if done {
            break;
        }
    }
    use ContainerEventKind::{Created, Deleted, Started, Stopped};
    let own: Vec<_> = seen.iter().filter(|(sandbox, _)| !sandbox).map(|(_, kind)| kind.clone()).collect();
    let end = Stopped { exit_code: 4, reason: "Error".to_owned() };
    check(own == [Created, Started, end, Deleted], &seen)?;
    let pod: Vec<_> = seen.iter().filter(|(sandbox, _)| *sandbox).map(|(_, kind)| kind.clone()).collect();
    check(pod.first() == Some(&Created) && pod.get(1) == Some(&Started) && pod.last() == Some(&Deleted), &seen)
}

async fn list_and_filter(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let other = bench.sandbox().await?;
    let id = bench
        .start(&sandbox, "sleep 1000", |config| {
            config.labels.insert("app".to_owned(), "x".to_owned());
            config.annotations.insert("note".to_owned(), "long text: with/odd chars=\"1\"".to_owned());
        })
        .await?;
    bench.start(&other, "true", |_| {}).await?;
    let mut filter = ContainerFilter::default();
    filter.label_selector.insert("app".to_owned(), "x".to_owned());
    let found = bench.runtime.list_containers(&filter).await?;
    check(found.len() == 1 && found[0].id == id && found[0].annotations["note"].contains("odd"), &found)?;
    let found = bench.runtime.list_containers(&ContainerFilter { pod_sandbox_id: Some(other), ..Default::default() }).await?;
    check(found.len() == 1, &found)?;
    let found = bench.runtime.list_pod_sandboxes(&PodSandboxFilter { id: Some(sandbox), ..Default::default() }).await?;
    check(found.len() == 1 && found[0].labels["suite"] == "pharos", &found)
}

async fn restart_of_the_server(bench: &mut Bench) -> Outcome {
    let pod = bench.pod();
    let sandbox = bench.runtime.run_pod_sandbox(&pod).await?.id;
    let id = bench.start(&sandbox, "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done", |_| {}).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = bench.runtime.container_status(&id).await?;
    bench.restart().await?;
    let after = bench.runtime.container_status(&id).await?;
    check(before.pid == after.pid && after.state == ContainerState::Running && after.metadata == before.metadata, &after)?;
    let status = bench.runtime.pod_sandbox_status(&sandbox).await?;
    check(status.state == PodSandboxState::Ready && status.config == pod, &status)?;
    let mut events = bench.runtime.events().await?;
    let (code, _) = bench.exec(&id, "true").await?;
    check(code == 0, code)?;
    let one = bench.log(&after).await?.len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    check(bench.log(&after).await?.len() > one, "the log stands still")?;
    bench.runtime.stop_container(&id, Duration::ZERO).await?;
    let status = bench.ended(&id).await?;
    check(status.exit_code == 137, &status)?;
    let stopped = tokio::time::timeout(Duration::from_secs(5), async {
        while let Some(event) = events.next().await {
            if event.id == id && matches!(event.kind, ContainerEventKind::Stopped { .. }) {
                return true;
            }
        }
        false
    });
    check(stopped.await.unwrap_or(false), "no event after the restart")
}

async fn exit_while_server_is_away(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "echo before; sleep 0.4; echo after; exit 6", |_| {}).await?;
    bench.away(Duration::from_millis(1000)).await?;
    let status = bench.ended(&id).await?;
    check(status.exit_code == 6 && status.finished_at.is_some(), &status)?;
    let log = bench.log(&status).await?;
    check(log == ["stdout F before", "stdout F after"], &log)
}

async fn images_load_list_remove(bench: &mut Bench) -> Outcome {
    let archive = bench.archive("second.tar", "second:v1", |image| {
        image.config.user = "web".to_owned();
        image.config.exposed_ports = vec!["80/tcp".to_owned()];
    })?;
    let loaded = bench.runtime.load_image(&archive).await?;
    let name = ImageSpec::from("docker.io/library/second:v1");
    let image = bench.runtime.image_status(&"second:v1".into()).await?.ok_or("not there after loading")?;
    check(loaded.len() == 1 && image.id == loaded[0].id && image.repo_tags == [name.image.as_str()], &image)?;
    check(image.username == "web" && image.config.exposed_ports == ["80/tcp"] && image.size_bytes > 100_000, &image)?;
    check(bench.runtime.image_status(&ImageSpec { image: image.id.clone() }).await?.is_some(), "not found by ID")?;
    let (_, log) = bench.run("id -u", |config| config.image = "second:v1".into()).await?;
    check(log == ["stdout F 101"], &log)?;
    bench.clear().await?;
    bench.runtime.remove_image(&"second:v1".into()).await?;
    bench.runtime.remove_image(&"second:v1".into()).await?;
    check(bench.runtime.image_status(&"second:v1".into()).await?.is_none(), "still there after removal")?;
    check(bench.runtime.image_status(&IMAGE.into()).await?.is_some(), "the other image is gone")?;
    let bad = bench.dir.join("bad.tar");
    std::fs::write(&bad, b"no archive at all")?;
    check(bench.runtime.load_image(&bad).await.is_err(), "loaded nonsense")
}

async fn pull_from_registry(bench: &mut Bench) -> Outcome {
    let archive = bench.archive("pull.tar", "pulled:v1", |image| image.config.env.push("PULLED=1".to_owned()))?;
    let registry = Registry::serve(&archive, None, false).await?;
    let name = format!("{}/some/name:v1", registry.address);
    let image = ImageSpec { image: name.clone() };
    let reference = bench.runtime.pull_image(&image, &RegistryAuth::Anonymous).await?;
    check(reference.starts_with(&format!("{}/some/name@sha256:", registry.address)), &reference)?;
    check(bench.runtime.image_status(&ImageSpec { image: reference.clone() }).await?.is_some(), "not found by digest")?;
    let (status, log) = bench.run("echo $PULLED", |config| config.image = image.clone()).await?;
    check(log == ["stdout F 1"] && status.image_ref == reference, (&log, &status))?;
    let missing = ImageSpec { image: format!("{}/missing:v1", registry.address) };
    let error = bench.runtime.pull_image(&missing, &RegistryAuth::Anonymous).await.err().ok_or("pulled what is not there")?;
    check(error.is_not_found(), error.chain())?;
    bench.clear().await?;
    bench.runtime.remove_image(&image).await?;
    drop(registry);
    let error = bench.runtime.pull_image(&image, &RegistryAuth::Anonymous).await.err().ok_or("pulled from nowhere")?;
    check(matches!(error, Error::Unavailable { .. }), error.chain())
}

async fn pull_with_credentials(bench: &mut Bench) -> Outcome {
    let archive = bench.archive("private.tar", "private:v1", |_| {})?;
    // user:secret
    let credentials = "dXNlcjpzZWNyZXQ=";
    // Docker asks `/v2/` alone whether there is something to log in to.
    let docker = bench.runtime.version().await?.runtime_name == "docker";
    for late in [false, true].into_iter().filter(|late| !(*late && docker)) {
        let registry = Registry::serve(&archive, Some(credentials.to_owned()), late).await?;
        let image = ImageSpec { image: format!("{}/private:v1", registry.address) };
        let refused = bench.runtime.pull_image(&image, &RegistryAuth::Anonymous).await;
        check(matches!(refused, Err(Error::Unauthenticated(_))), (late, &refused))?;
        let auth = RegistryAuth::Basic { username: "user".to_owned(), password: "secret".to_owned() };
        bench.runtime.pull_image(&image, &auth).await?;
        bench.runtime.remove_image(&image).await?;
    }
    Ok(())
}

async fn duplicates_are_refused(bench: &mut Bench) -> Outcome {
    let pod = bench.pod();
    let sandbox = bench.runtime.run_pod_sandbox(&pod).await?.id;
    let again = bench.runtime.run_pod_sandbox(&pod).await;
    check(matches!(again, Err(Error::AlreadyExists { .. })), &again)?;
    let config = shell("true");
    bench.runtime.create_container(&sandbox, &config).await?;
    let again = bench.runtime.create_container(&sandbox, &config).await;
    check(matches!(again, Err(Error::AlreadyExists { .. })), &again)?;
    bench.runtime.remove_container("no-such-container").await?;
    bench.runtime.remove_pod_sandbox("no-such-sandbox").await?;
    let gone = bench.runtime.container_status("no-such-container").await;
    check(gone.is_err_and(|error| error.is_not_found()), "found what is not there")
}

async fn resolv_conf(bench: &mut Bench) -> Outcome {
    let mut pod = bench.pod();
    pod.dns_config = Some(DnsConfig {
        servers: vec!["10.43.0.10".to_owned()],
        searches: vec!["default.svc.cluster.local".to_owned(), "cluster.local".to_owned()],
        options: vec!["ndots:5".to_owned()],
    });
    pod.linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    let sandbox = bench.runtime.run_pod_sandbox(&pod).await?.id;
    let id = bench.start(&sandbox, "cat /etc/resolv.conf /proc/sys/net/ipv4/ip_unprivileged_port_start", |_| {}).await?;
    let status = bench.ended(&id).await?;
    let log = bench.log(&status).await?;
    let expect = ["search default.svc.cluster.local cluster.local", "nameserver 10.43.0.10", "options ndots:5", "0"];
    check(log == expect.map(|line| format!("stdout F {line}")), &log)
}

/// How small a shim and a pause process are; only the embedded runtime has them.
async fn shims_are_small(bench: &mut Bench) -> Outcome {
    if bench.runtime.version().await?.runtime_name != "pharos" {
        return Ok(());
    }
    let sandbox = bench.sandbox().await?;
    let id = bench.start(&sandbox, "sleep 1000", |_| {}).await?;
    let pid = bench.runtime.container_status(&id).await?.pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let shim = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)).ok_or("no parent")?.to_owned();
    let pause = bench.runtime.pod_sandbox_status(&sandbox).await?.pid.to_string();
    let kib = |pid: &str| -> Outcome<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let threads = std::fs::read_dir(format!("/proc/{shim}/task"))?.count();
    let (shim, pause) = (kib(&shim)?, kib(&pause)?);
    eprintln!("     shim {shim} KiB, pause {pause} KiB, proportional");
    check(threads == 1, threads)?;
    check(shim < 8 << 10 && pause < 200, (shim, pause))
}

async fn many_containers(bench: &mut Bench) -> Outcome {
    let sandbox = bench.sandbox().await?;
    let mut times = Vec::new();
    for round in 0..10 {
        let mut config = shell("true");
        config.metadata.attempt = round;
        let started = Instant::now();
        let id = bench.runtime.create_container(&sandbox, &config).await?;
        bench.runtime.start_container(&id).await?;
        times.push(started.elapsed());
        bench.ended(&id).await?;
    }
    times.sort();
    eprintln!("     create + start: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    let runs = (0..8).map(|attempt| {
        let (runtime, sandbox) = (bench.runtime.clone(), sandbox.clone());
        async move {
            let mut config = shell("exit 2");
            config.metadata.attempt = 100 + attempt;
            let id = runtime.create_container(&sandbox, &config).await?;
            runtime.start_container(&id).await?;
            Outcome::Ok(id)
        }
    });
    for id in futures::future::join_all(runs).await {
        let status = bench.ended(&id?).await?;
        check(status.exit_code == 2, &status)?;
    }
    Ok(())
}
