//! A chart's whole life with Helm: installed, upgraded, rolled back, failed, uninstalled.

use std::time::Duration;

use pharos_tests::{Cluster, Output, clients, eventually, root, run};

#[test]
fn a_release_lives_and_goes() {
    let cluster = Cluster::start();
    cluster.load_busybox(0);
    let chart = root().join("tests/testdata/chart").display().to_string();
    let try_helm = |arguments: &[&str]| -> Output {
        run(cluster.command(0, &clients().join("helm").display().to_string()).args(arguments), "")
    };
    let helm = |arguments: &[&str]| {
        let output = try_helm(arguments);
        assert!(output.ok(), "helm {arguments:?}: {output:?}");
        output.stdout
    };
    let wait = ["--wait", "--timeout", "60s"];

    let installed = helm(&[&["install", "web", &chart][..], &wait].concat());
    assert!(installed.contains("STATUS: deployed") && installed.contains("REVISION: 1"), "{installed}");
    assert_eq!(said(&cluster, "hello"), "hello");
    assert_eq!(cluster.kubectl(&["logs", "job/web-hook"]).success(), "hello\n");
    let again = try_helm(&["install", "web", &chart]);
    assert!(!again.ok() && again.stderr.contains("cannot reuse a name that is still in use"), "{again:?}");
    let tested = helm(&["test", "web", "--timeout", "60s"]);
    assert!(tested.contains("Phase:          Succeeded"), "{tested}");

    let set = ["--set", "message=goodbye,replicas=2"];
    let upgraded = helm(&[&["upgrade", "web", &chart][..], &set, &wait].concat());
    assert!(upgraded.contains("REVISION: 2"), "{upgraded}");
    assert_eq!(said(&cluster, "goodbye"), "goodbye");
    assert_eq!(cluster.kubectl(&["logs", "job/web-hook"]).success(), "goodbye\n", "the hook is made anew");
    let ready = ["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"];
    assert_eq!(cluster.kubectl(&ready).success(), "2");

    // One that never gets ready is a failed revision.
    let failed = try_helm(&["upgrade", "web", &chart, "--set", "image=none.invalid/none:1", "--wait", "--timeout", "3s"]);
    assert!(!failed.ok(), "{failed:?}");
    let history = helm(&["history", "web"]);
    assert!(history.contains("superseded") && history.contains("failed"), "{history}");

    let _ = helm(&[&["rollback", "web", "1"][..], &wait].concat());
    assert_eq!(said(&cluster, "hello"), "hello");
    assert_eq!(cluster.kubectl(&ready).success(), "1");
    let list = helm(&["list", "--all-namespaces"]);
    assert!(list.contains("web-0.1.0") && list.contains("deployed"), "{list}");
    assert!(helm(&["status", "web"]).contains("REVISION: 4"));
    assert!(helm(&["get", "manifest", "web"]).contains("index.html: \"hello\""));
    // What is there is compared with what would be made.
    assert!(helm(&["upgrade", "web", &chart, "--dry-run=server"]).contains("kind: Deployment"));

    let _ = helm(&["uninstall", "web", "--wait"]);
    assert!(!helm(&["list"]).contains("web"));
    eventually("nothing of it is left but the hooks", Duration::from_secs(30), || {
        let left = cluster.try_kubectl(&["get", "deployment,service,configmap,pod,secret", "-l", "app!=none", "-o", "name"])?;
        let left: Vec<&str> = left
            .lines()
            .filter(|name| !name.contains("hook") && !name.contains("web-test"))
            .filter(|name| !["service/kubernetes", "configmap/kube-root-ca.crt"].contains(name))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
    });
}

/// What the chart's Service says, once that is what is expected or for half a minute it is not.
fn said(cluster: &Cluster, expected: &str) -> String {
    let address = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).success();
    eventually("the Service answers", Duration::from_secs(30), || {
        let answer = run(cluster.command(0, "curl").args(["-sS", "-m", "5", &format!("http://{address}/index.html")]), "");
        if answer.stdout == expected { Ok(answer.stdout) } else { Err(format!("{answer:?}")) }
    })
}
