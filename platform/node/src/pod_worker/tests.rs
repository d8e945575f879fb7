//! A worker against a scripted runtime, network and API server.

mod fake; // What it is run against.

use std::time::Duration;

use serde_json::{Value, json};

use fake::{World, world};

fn pod(policy: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "uid": "u1", "resourceVersion": "1", "generation": 1},
        "spec": {
            "nodeName": "node",
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 5,
            "initContainers": [{"name": "i", "image": "image"}],
            "containers": [{"name": "a", "image": "image"}],
        },
        "status": {"phase": "Pending"},
    })
}

async fn until(world: &World, what: &str, holds: impl Fn(&Value) -> bool) {
    for _ in 0..2000 {
        if holds(&world.api.pod()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {what}: {:#}", world.api.pod()["status"]);
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_pod_from_start_to_end() {
    let world = world(pod("Always")).await;
    let handle = world.start();
    until(&world, "initialising", |_| world.runtime.running("i").is_some()).await;
    assert!(world.runtime.running("a").is_none());
    world.runtime.exit("i", 0, &handle);
    until(&world, "running", |pod| phase(pod) == "Running").await;
    until(&world, "ready", |pod| pod["status"]["containerStatuses"][0]["ready"] == true).await;
    assert_eq!(world.api.pod()["status"]["podIP"], "10.42.0.2");

    world.runtime.exit("a", 1, &handle);
    until(&world, "restarted", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    world.runtime.exit("a", 1, &handle);
    until(&world, "backing off", |pod| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    let message = world.api.pod()["status"]["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert_eq!(message, "back-off 10s restarting failed container=a pod=p_n(u1)");
    until(&world, "restarted after the back-off", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 2).await;

    world.delete(&handle, 5);
    until(&world, "deleted", |_| world.api.is_deleted()).await;
    assert_eq!(phase(&world.api.pod()), "Failed");
    assert!(world.runtime.calls().iter().any(|call| call == "detach"));
    world.gone(&handle);
    until(&world, "forgotten", |_| world.runtime.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_pod_succeeds_and_keeps_its_status() {
    let world = world(pod("Never")).await;
    let handle = world.start();
    until(&world, "initialising", |_| world.runtime.running("i").is_some()).await;
    world.runtime.exit("i", 0, &handle);
    until(&world, "running", |_| world.runtime.running("a").is_some()).await;
    world.runtime.exit("a", 0, &handle);
    until(&world, "succeeded", |pod| phase(pod) == "Succeeded").await;
    let status = world.api.pod()["status"].clone();
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert!(!world.api.is_deleted());
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_fails_the_pod() {
    let world = world(pod("Never")).await;
    let handle = world.start();
    until(&world, "initialising", |_| world.runtime.running("i").is_some()).await;
    world.runtime.exit("i", 3, &handle);
    until(&world, "failed", |pod| phase(pod) == "Failed").await;
    assert!(world.runtime.running("a").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_new_kubelet_keeps_running_containers() {
    let world = world(pod("Always")).await;
    let handle = world.start();
    until(&world, "initialising", |_| world.runtime.running("i").is_some()).await;
    world.runtime.exit("i", 0, &handle);
    until(&world, "running", |pod| pod["status"]["containerStatuses"][0]["ready"] == true).await;
    let before = world.runtime.running("a");
    drop(handle);
    let _handle = world.start();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.runtime.running("a"), before);
    assert_eq!(world.runtime.calls().iter().filter(|call| *call == "run_pod_sandbox").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_liveness_probe_fails_is_backed_off() {
    let mut pod = pod("Always");
    pod["spec"]["initContainers"] = json!([]);
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    let world = world(pod).await;
    world.runtime.fail_execs();
    let _handle = world.start();
    // Ten seconds may be over before the first wait is looked at: so long the worker waits for the Services here.
    for (wait, restarts) in [("20s", 3), ("40s", 4), ("1m20s", 5)] {
        let message = format!("back-off {wait} restarting failed container=a pod=p_n(u1)");
        until(&world, &message, |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["state"]["waiting"] == json!({"reason": "CrashLoopBackOff", "message": message})
                && status["restartCount"] == restarts
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn events_tell_why_there_is_no_image() {
    let cases: [(&str, &str, &[&str]); 3] = [
        (
            "Bad//:x",
            "Always",
            &[
                "Warning InspectFailed Failed to apply default image tag \"Bad//:x\": couldn't parse image name \"Bad//:x\": \
                 invalid reference format",
                "Warning Failed Error: InvalidImageName",
            ],
        ),
        (
            "image",
            "Never",
            &[
                "Warning ErrImageNeverPull Container image \"image\" is not present with pull policy of Never",
                "Warning Failed Error: ErrImageNeverPull",
            ],
        ),
        (
            "image",
            "Always",
            &[
                "Normal Pulling Pulling image \"image\"",
                "Warning Failed Failed to pull image \"image\": image \"image\" not found",
                "Warning Failed Error: ErrImagePull",
                "Normal BackOff Back-off pulling image \"image\": ErrImagePull: image \"image\" not found",
                "Warning Failed Error: ImagePullBackOff",
            ],
        ),
    ];
    for (image, policy, expect) in cases {
        let mut pod = pod("Always");
        pod["spec"]["initContainers"] = json!([]);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
        let world = world(pod).await;
        world.runtime.lose_images();
        let _handle = world.start();
        until(&world, "told", |_| world.api.events().len() >= expect.len()).await;
        assert_eq!(world.api.events()[..expect.len()], *expect);
    }
}
