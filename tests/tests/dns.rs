//! Names, as `dig` sees them on a node and as programs see them in a pod: the cluster's, and those of an upstream resolver.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io::Write as _, net::UdpSocket, time::Duration};

use pharos_tests::{BUSYBOX, Cluster, eventually, run};

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: set}, ports: [{name: http, port: 80, targetPort: 8080}, {name: other, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: set}
spec: {clusterIP: None, selector: {app: set}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: outside.example}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  replicas: 2
  serviceName: set
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {name: web, image: IMAGE, command: [sh, -c, 'hostname > /www/index.html; exec httpd -f -p 8080 -h /www']}
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, command: [sleep, "1000000"]}]
"#;

#[test]
fn names_on_the_node_and_in_pods() {
    let mut resolvers = tempfile::NamedTempFile::new().unwrap();
    resolvers.write_all(b"nameserver 172.31.77.254\n").unwrap();
    let cluster = Cluster::with(1, &["--resolv-conf", &resolvers.path().display().to_string()]);
    let socket = cluster.net().outside(|| UdpSocket::bind(("172.31.77.254", 53)).unwrap());
    let _ = std::thread::spawn(move || upstream(&socket));
    cluster.load_busybox(0);
    cluster.apply(&OBJECTS.replace("IMAGE", BUSYBOX));
    let _ = cluster.kubectl(&["rollout", "status", "statefulset/set", "--timeout=60s"]).success();
    let _ = cluster.kubectl(&["wait", "pod/plain", "--for=condition=Ready", "--timeout=60s"]).success();

    let field = |arguments: &[&str]| cluster.kubectl(&[&["get"], arguments].concat()).success();
    let web = field(&["service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let pods = ["set-0", "set-1"].map(|pod| field(&["pod", pod, "-o", "jsonpath={.status.podIP}"]));
    let both = lines(&[&pods[0], &pods[1]]);
    let [dashed, dashed_1] = pods.clone().map(|ip| ip.replace('.', "-"));
    let zone = "default.svc.cluster.local";
    let cases: Vec<(String, String)> = vec![
        (format!("web.{zone}"), web.clone()),
        ("WEB.Default.SVC.cluster.local".into(), web.clone()),
        (format!("web.{zone} +tcp"), web.clone()),
        (format!("web.{zone} AAAA"), String::new()),
        (format!("_http._tcp.web.{zone} SRV"), format!("0 100 80 web.{zone}.")),
        (format!("_other._udp.web.{zone} SRV"), format!("0 100 53 web.{zone}.")),
        (format!("-x {web}"), format!("web.{zone}.")),
        (format!("set.{zone}"), both.clone()),
        (format!("set-0.set.{zone}"), pods[0].clone()),
        (
            format!("_http._tcp.set.{zone} SRV"),
            lines(&[&format!("0 50 8080 set-0.set.{zone}."), &format!("0 50 8080 set-1.set.{zone}.")]),
        ),
        (format!("-x {}", pods[1]), lines(&[&format!("set-1.set.{zone}."), &format!("{dashed_1}.web.{zone}.")])),
        (format!("{dashed}.default.pod.cluster.local"), pods[0].clone()),
        (format!("away.{zone}"), lines(&["192.0.2.7", "outside.example."])),
        (format!("away.{zone} CNAME"), "outside.example.".into()),
        ("dns-version.cluster.local TXT".into(), "\"1.1.0\"".into()),
        ("outside.example".into(), "192.0.2.7".into()),
        ("outside.example AAAA".into(), String::new()),
        ("outside.example +tcp".into(), "192.0.2.7".into()),
    ];
    for (question, answer) in cases {
        eventually(&format!("{question} is {answer}"), Duration::from_secs(20), || {
            let said = dig(&cluster, &question);
            if said == ("NOERROR".into(), answer.clone()) { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
    for name in [&format!("none.{zone}"), "none.example", "web.none.svc.cluster.local", &format!("set-9.set.{zone}")] {
        assert_eq!(dig(&cluster, name).0, "NXDOMAIN", "{name}");
    }

    in_pods(&cluster, &web);

    // A pod that goes takes its names along.
    let _ = cluster.kubectl(&["scale", "statefulset/set", "--replicas=1"]).success();
    eventually("the second pod's names are gone", Duration::from_secs(30), || {
        let said = (dig(&cluster, &format!("set-1.set.{zone}")).0, dig(&cluster, &format!("set.{zone}")).1);
        if said == ("NXDOMAIN".into(), pods[0].clone()) { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

/// Programs in a pod find short names by the search path, and every answer of the node.
fn in_pods(cluster: &Cluster, web: &str) {
    let inside = |pod: &str, command: &[&str]| cluster.kubectl(&[&["exec", pod, "--"], command].concat());
    let resolv = inside("set-0", &["cat", "/etc/resolv.conf"]).success();
    assert!(resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{resolv}");
    assert!(resolv.contains("nameserver 10.43.0.10") && resolv.contains("options ndots:5"), "{resolv}");
    for (name, address) in [
        ("kubernetes.default.svc.cluster.local", "10.43.0.1"),
        ("web.default.svc.cluster.local", web),
        ("outside.example", "192.0.2.7"),
    ] {
        let said = inside("set-0", &["nslookup", "-type=a", name]).success();
        assert!(said.contains(&format!("Address: {address}")), "{name}: {said}");
    }
    let missing = inside("set-0", &["nslookup", "-type=a", "none.default.svc.cluster.local"]);
    assert!(!missing.ok() && format!("{missing:?}").contains("NXDOMAIN"), "{missing:?}");
    for (name, port, answer) in [("web", "80", "set-"), ("web.default", "80", "set-"), ("set-1.set", "8080", "set-1\n")] {
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {name} {port}");
        let said = inside("set-0", &["sh", "-c", &script]).success();
        let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(body.starts_with(answer), "{name}: {said}");
    }
    // What a pod has of the machine's own resolvers.
    assert_eq!(inside("plain", &["cat", "/etc/resolv.conf"]).success().trim(), "nameserver 172.31.77.254");
}

/// The status of an answer and its data, in order.
fn dig(cluster: &Cluster, question: &str) -> (String, String) {
    let mut command = cluster.command(0, "dig");
    command.args(["@10.43.0.10", "+noall", "+comments", "+answer", "+time=2", "+tries=3"]).args(question.split(' '));
    let text = run(&mut command, "").stdout;
    let status = text.split_once("status: ").map_or("none", |(_, rest)| rest.split(',').next().unwrap());
    let data: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty())
        .map(|line| line.split_whitespace().skip(4).collect::<Vec<_>>().join(" "))
        .collect();
    (status.to_owned(), lines(&data.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn lines(items: &[&str]) -> String {
    let mut items: Vec<&str> = items.iter().map(|item| item.trim()).collect();
    items.sort_unstable();
    items.join("\n")
}

/// A resolver that knows `outside.example`, which is at 192.0.2.7, and nothing else.
fn upstream(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut query) {
        let mut end = 12;
        let mut labels = Vec::new();
        while end < length && query[end] != 0 {
            let label = &query[end + 1..(end + 1 + usize::from(query[end])).min(length)];
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            end += 1 + label.len();
        }
        let Some(kind) = query.get(end + 1..end + 3) else { continue };
        let known = labels.join(".") == "outside.example";
        let address = known && kind == [0, 1];
        let mut reply = query[..end + 5].to_vec();
        // A response with recursion: no error, or no such name; one question, and one answer or none.
        reply[2..12].copy_from_slice(&[0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
        if address {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 7]);
        }
        let _ = socket.send_to(&reply, peer);
    }
}
