//! What kubectl keeps open: logs, exec, attach, cp, port-forward and debug, old and new, on terminals and off.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use pharos_tests::{BUSYBOX, Cluster, Output, Session, eventually, run};

const VERSIONS: [&str; 2] = ["1.32", "1.37"];

/// A pod that echoes what it is told, one on a terminal, and a web server.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: echo
      image: IMAGE
      stdin: true
      command: [sh, -c, 'echo started; while read line; do echo "heard $line"; done; exec sleep 1000000']
    - name: web
      image: IMAGE
      ports: [{name: http, containerPort: 8080}]
      command: [sh, -c, 'echo serving; exec httpd -f -p 8080 -h /www']
---
apiVersion: v1
kind: Pod
metadata: {name: terminal, labels: {app: terminal}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: shell, image: IMAGE, stdin: true, tty: true, command: [sh]}]
---
apiVersion: v1
kind: Service
metadata: {name: box}
spec: {selector: {app: box}, ports: [{port: 80, targetPort: http}]}
"#;

struct Pods {
    cluster: Cluster,
}

impl Pods {
    fn start() -> Self {
        let cluster = Cluster::start();
        cluster.load_busybox(0);
        Self { cluster }
    }

    /// Makes the pods anew, so that each version of kubectl finds the same.
    fn fresh(&self) {
        let _ = self.cluster.kubectl(&["delete", "pod,service", "box", "terminal", "--ignore-not-found", "--wait=true"]);
        self.cluster.apply(&PODS.replace("IMAGE", BUSYBOX));
        let _ = self.cluster.kubectl(&["wait", "pod/box", "pod/terminal", "--for=condition=Ready", "--timeout=60s"]).success();
    }

    fn kubectl(&self, version: &str, arguments: &[&str]) -> Output {
        self.cluster.kubectl_of(version, arguments, "")
    }

    fn session(&self, version: &str, arguments: &[&str]) -> Session {
        Session::start(&mut self.cluster.kubectl_command(version, arguments))
    }

    fn terminal(&self, version: &str, arguments: &[&str]) -> Session {
        Session::on_terminal(&self.cluster.kubectl_command(version, arguments), 33, 77)
    }
}

#[test]
fn logs_exec_and_attach() {
    let pods = Pods::start();
    for version in VERSIONS {
        pods.fresh();
        logs_and_attach(&pods, version);
        exec(&pods, version);
        terminals(&pods, version);
    }
}

fn logs_and_attach(pods: &Pods, version: &str) {
    let mut logs = pods.session(version, &["logs", "-f", "box", "-c", "echo"]);
    logs.expect("started\n");
    let mut attached = pods.session(version, &["attach", "-i", "box", "-c", "echo"]);
    attached.send("one\n");
    attached.expect("heard one\n");
    logs.expect("heard one\n");
    attached.send("two\n");
    attached.expect("heard two\n");
    logs.expect("heard two\n");
    drop((logs, attached));

    let kubectl = |arguments: &[&str]| pods.kubectl(version, arguments).success();
    assert_eq!(kubectl(&["logs", "box", "-c", "echo", "--tail=1"]), "heard two\n");
    assert_eq!(kubectl(&["logs", "box", "-c", "echo", "--limit-bytes=7"]), "started");
    assert_eq!(kubectl(&["logs", "box", "-c", "echo", "--since=1h", "--tail=-1"]).lines().count(), 3);
    let stamped = kubectl(&["logs", "box", "-c", "echo", "--timestamps"]);
    assert!(stamped.lines().all(|l| l.split(' ').next().is_some_and(|t| t.ends_with('Z') && t.starts_with("20"))), "{stamped}");
    let all = kubectl(&["logs", "-l", "app=box", "--all-containers", "--prefix"]);
    assert!(all.contains("[pod/box/echo] started\n") && all.contains("[pod/box/web] serving\n"), "{all}");
    // Without a container's name the first one's, with a note that says so.
    let first = pods.kubectl(version, &["logs", "box"]);
    assert!(first.stdout.starts_with("started\n") && first.stderr.contains("Defaulted container \"echo\""), "{first:?}");
    for (arguments, message) in [
        (&["logs", "box", "-c", "none"][..], "container none is not valid for pod box"),
        (&["logs", "none"], "pods \"none\" not found"),
        (&["logs", "box", "-c", "echo", "--previous"], "previous terminated container \"echo\" in pod \"box\" not found"),
        (&["attach", "box", "-c", "none"], "container none"),
    ] {
        let refused = pods.kubectl(version, arguments);
        assert!(!refused.ok() && refused.stderr.contains(message), "{version} {arguments:?}: {refused:?}");
    }
}

fn exec(pods: &Pods, version: &str) {
    let both = pods.kubectl(version, &["exec", "box", "-c", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((both.stdout.as_str(), both.code), ("out\n", Some(7)), "{both:?}");
    assert!(both.stderr.starts_with("err\n") && both.stderr.contains("exit code 7"), "{both:?}");
    let input = "a line\n".repeat(50_000);
    let counted = pods.cluster.kubectl_of(version, &["exec", "-i", "box", "-c", "web", "--", "md5sum"], &input).success();
    assert_eq!(counted, run(&mut std::process::Command::new("md5sum"), &input).success(), "{version}");
    let large = pods.kubectl(version, &["exec", "box", "-c", "web", "--", "sh", "-c", "seq 1 200000"]).success();
    assert!(large.len() == 1_288_895 && large.ends_with("\n200000\n"), "{version}: {} bytes", large.len());
    let missing = pods.kubectl(version, &["exec", "box", "-c", "web", "--", "no-such-program"]);
    assert!(!missing.ok() && missing.stderr.contains("no-such-program"), "{missing:?}");
    let nowhere = pods.kubectl(version, &["exec", "box", "-c", "none", "--", "true"]);
    assert!(!nowhere.ok() && nowhere.stderr.contains("container none is not valid for pod box"), "{nowhere:?}");
    let refused = pods.kubectl(version, &["exec", "box", "--as=nobody", "--", "true"]);
    assert!(!refused.ok() && refused.stderr.contains("Forbidden"), "{refused:?}");
}

fn terminals(pods: &Pods, version: &str) {
    let mut shell = pods.terminal(version, &["exec", "-it", "box", "-c", "web", "--", "sh"]);
    shell.expect("# ");
    shell.send("tty; stty size; echo $((6 * 7))\n");
    shell.expect("/dev/pts/");
    // The size arrives with the first resize event, which may come after the shell.
    if !shell.expect("42").contains("33 77") {
        shell.send("until [ \"$(stty size)\" = '33 77' ]; do usleep 10000; done; stty size\n");
        shell.expect("33 77\r\n");
    }
    // Interrupting ends the foreground program, not the session.
    shell.send("echo sleep''ing; sleep 1000\n");
    shell.expect("sleeping");
    shell.send("\x03");
    shell.expect("# ");
    shell.send("exit 5\n");
    let (code, rest) = shell.end();
    assert_eq!(code, Some(5), "{version}: {rest}");

    let mut shell = pods.terminal(version, &["attach", "-it", "terminal"]);
    shell.send("\n");
    shell.expect("# ");
    shell.send("echo $((7 * 8)); stty size\n");
    shell.expect("56\r\n");
    shell.expect("33 77");
}

#[test]
fn cp_and_port_forward() {
    let pods = Pods::start();
    for version in VERSIONS {
        pods.fresh();
        let folder = pods.cluster.folder().join(version);
        std::fs::create_dir(&folder).unwrap();
        cp(&pods, version, &folder);
        port_forward(&pods, version, &folder);
    }
}

fn cp(pods: &Pods, version: &str, folder: &Path) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::create_dir_all(folder.join("tree/below")).unwrap();
    std::fs::write(folder.join("tree/large"), &bytes).unwrap();
    std::fs::write(folder.join("tree/below/small"), "small\n").unwrap();
    let there = format!("{}/tree", folder.display());
    let kubectl = |arguments: &[&str]| pods.kubectl(version, arguments).success();
    let _ = kubectl(&["cp", &format!("{there}/large"), "default/box:/www/large", "-c", "web"]);
    let _ = kubectl(&["cp", &there, "box:/tmp/tree", "-c", "web"]);
    assert_eq!(kubectl(&["exec", "box", "-c", "web", "--", "cat", "/tmp/tree/below/small"]), "small\n");
    let _ = kubectl(&["cp", "box:/tmp/tree", &format!("{}/back", folder.display()), "-c", "web"]);
    assert!(std::fs::read(folder.join("back/large")).unwrap() == bytes, "{version}: the large file came back changed");
    assert_eq!(std::fs::read_to_string(folder.join("back/below/small")).unwrap(), "small\n");
}

fn port_forward(pods: &Pods, version: &str, folder: &Path) {
    let bytes = std::fs::read(folder.join("tree/large")).unwrap();
    for target in ["pod/box", "service/box"] {
        let port = if target == "service/box" { ":80" } else { ":8080" };
        let mut forward = pods.session(version, &["port-forward", target, port]);
        forward.expect("Forwarding from 127.0.0.1:");
        let local = forward.expect(" -> 8080").replace(" -> 8080", "");
        let url = format!("http://127.0.0.1:{local}/large");
        // Several at once over the one session.
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (url, bytes) = (&url, &bytes);
                let to = folder.join(format!("forwarded-{n}"));
                scope.spawn(move || {
                    let mut curl = pods.cluster.command(0, "curl");
                    let _ = run(curl.args(["-sS", "--fail", "-m", "30", "-o", &to.display().to_string(), url]), "").success();
                    assert!(std::fs::read(&to).unwrap() == *bytes, "{version}: what was forwarded is changed");
                });
            }
        });
    }
    // A port that nobody listens on refuses the connection, and the session says why.
    let mut forward = pods.session(version, &["port-forward", "pod/box", ":9"]);
    forward.expect("Forwarding from 127.0.0.1:");
    let local = forward.expect(" -> 9").replace(" -> 9", "");
    let refused = run(pods.cluster.command(0, "curl").args(["-sS", "-m", "10", &format!("http://127.0.0.1:{local}/")]), "");
    assert!(!refused.ok(), "{refused:?}");
    forward.expect("onnection refused");
}

#[test]
fn debug_containers() {
    let pods = Pods::start();
    for version in VERSIONS {
        pods.fresh();
        let kubectl = |arguments: &[&str]| pods.kubectl(version, arguments).success();
        // Beside the pod's containers, seeing the processes of one.
        let _ =
            kubectl(&["debug", "box", "--image", BUSYBOX, "--target=web", "-c", "beside", "--", "sh", "-c", "ps; sleep 1000000"]);
        eventually("the ephemeral container sees its target", Duration::from_secs(30), || {
            let text = pods.cluster.try_kubectl(&["logs", "box", "-c", "beside"])?;
            if text.contains("httpd -f -p 8080") { Ok(()) } else { Err(text) }
        });
        assert!(kubectl(&["describe", "pod", "box"]).contains("Ephemeral Containers:"));

        let mut shell = pods.terminal(version, &["debug", "-it", "box", "--image", BUSYBOX, "-c", "shell", "--", "sh"]);
        shell.send("\n");
        shell.expect("# ");
        shell.send("echo $((6 * 7)); exit\n");
        shell.expect("42\r\n");
        drop(shell);

        // A copy of the pod with another command.
        let _ = kubectl(&["debug", "box", "--copy-to=copy", "--container=web", "--", "sh", "-c", "echo copied; sleep 1000000"]);
        eventually("the copy runs", Duration::from_secs(30), || {
            let text = pods.cluster.try_kubectl(&["logs", "copy", "-c", "web"])?;
            if text.contains("copied") { Ok(()) } else { Err(text) }
        });
        // The node, from a pod on it that sees all of it.
        let made = kubectl(&[
            "debug",
            "node/server",
            "--image",
            BUSYBOX,
            "--profile=sysadmin",
            "--",
            "sh",
            "-c",
            "ls -d /host/proc; ps",
        ]);
        let name = made.split_whitespace().find(|w| w.starts_with("node-debugger-")).expect("it names the pod");
        eventually("the node is seen", Duration::from_secs(30), || {
            let text = pods.cluster.try_kubectl(&["logs", name])?;
            if text.contains("/host/proc") && text.contains("server") { Ok(()) } else { Err(text) }
        });
        let _ = kubectl(&["delete", "pod", "copy", name, "--grace-period=0", "--force"]);
    }
}
