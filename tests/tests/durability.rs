//! What was acknowledged survives `kill -9`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use pharos_tests::{Cluster, eventually, run};

#[test]
fn acknowledged_objects_survive_a_kill() {
    let mut cluster = Cluster::with(1, &["--disable=agent"]);
    let (acknowledged, stop) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
    thread::scope(|scope| {
        for writer in 0..4 {
            let (cluster, acknowledged, stop) = (&cluster, acknowledged.clone(), stop.clone());
            scope.spawn(move || {
                for batch in 0..25 {
                    let names: Vec<String> = (0..10).map(|n| format!("w{writer}-{batch}-{n}")).collect();
                    let manifests: String = names
                        .iter()
                        .map(|n| format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {n}}}}}\n"))
                        .collect();
                    let output = cluster.kubectl_of("1.37", &["create", "-f", "-"], &manifests);
                    let created = output.stdout.lines().filter_map(|l| l.strip_prefix("configmap/")?.strip_suffix(" created"));
                    acknowledged.lock().unwrap().extend(created.map(str::to_owned));
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        // Some way into the 1,000 creates.
        eventually("200 objects are there", Duration::from_secs(60), || {
            let count = acknowledged.lock().unwrap().len();
            if count >= 200 { Ok(()) } else { Err(count.to_string()) }
        });
        stop.store(true, Ordering::SeqCst);
        let _ = run(std::process::Command::new("kill").args(["-9", &cluster.pid(0).to_string()]), "").success();
    });
    cluster.kill(0);
    cluster.launch(0);
    eventually("the API answers again", Duration::from_secs(30), || cluster.try_kubectl(&["get", "--raw", "/readyz"]));
    let listed = cluster.kubectl(&["get", "configmaps", "-o", "name"]).success();
    let there: BTreeSet<&str> = listed.lines().filter_map(|l| l.strip_prefix("configmap/")).collect();
    let acknowledged = acknowledged.lock().unwrap();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged objects are lost: {lost:?}", lost.len(), acknowledged.len());
}
