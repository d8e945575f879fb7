use k8s_openapi::api::core::v1::Pod;
use prometheus::Registry;

use super::*;

fn queue() -> Queue {
    Queue::new(Metrics::new(&Registry::new()).unwrap())
}

fn pod(name: &str, spec: serde_json::Value) -> Arc<PodInfo> {
    let pod: Pod =
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": spec}))
            .unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn unschedulable() -> Failed {
    Failed::Unschedulable(vec!["NodeResourcesFit"])
}

fn take(queue: &mut Queue) -> Option<String> {
    queue.take().map(|a| a.pod.key.name.to_string())
}

#[tokio::test(start_paused = true)]
async fn priority_then_age() {
    let mut queue = queue();
    for (name, priority) in [("old", 0), ("new", 0), ("vip", 10)] {
        queue.put(pod(name, serde_json::json!({"containers": [], "priority": priority})));
    }
    let order: Vec<_> = std::iter::from_fn(|| take(&mut queue)).collect();
    assert_eq!(order, ["vip", "old", "new"]);
}

#[tokio::test(start_paused = true)]
async fn unschedulable_pods_wait_for_an_event_and_their_backoff() {
    let mut queue = queue();
    let key = Key::new("a", "p");
    queue.put(pod("p", serde_json::json!({"containers": []})));
    assert_eq!(take(&mut queue).as_deref(), Some("p"));
    queue.put_back(&key, "p", unschedulable());
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(take(&mut queue), None);
    queue.move_all("NodeAdd");
    assert_eq!(take(&mut queue), None, "the back-off is not over");
    tokio::time::advance(Duration::from_millis(600)).await;
    assert_eq!(take(&mut queue).as_deref(), Some("p"));
    queue.put_back(&key, "p", unschedulable());
    tokio::time::advance(UNSCHEDULABLE_FOR).await;
    assert_eq!(take(&mut queue).as_deref(), Some("p"), "time is an event too");
}

#[tokio::test(start_paused = true)]
async fn an_event_during_the_attempt_counts() {
    let mut queue = queue();
    queue.put(pod("p", serde_json::json!({"containers": []})));
    take(&mut queue);
    queue.move_all("NodeAdd");
    queue.put_back(&Key::new("a", "p"), "p", unschedulable());
    tokio::time::advance(Duration::from_millis(1100)).await;
    assert_eq!(take(&mut queue).as_deref(), Some("p"));
}

#[tokio::test(start_paused = true)]
async fn one_pod_is_tried_again_for_a_reason_of_its_own() {
    let mut queue = queue();
    for name in ["p", "q"] {
        queue.put(pod(name, serde_json::json!({"containers": []})));
    }
    let (p, q) = (Key::new("a", "p"), Key::new("a", "q"));
    for key in [&p, &q] {
        take(&mut queue);
        queue.put_back(key, &key.name, unschedulable());
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    queue.reconsider(&q, "another", "PodUpdate");
    assert_eq!(take(&mut queue), None, "it is another pod by now");
    queue.reconsider(&q, "q", "PodUpdate");
    assert_eq!(take(&mut queue).as_deref(), Some("q"));
    queue.reconsider(&q, "q", "PodUpdate");
    queue.put_back(&q, "q", unschedulable());
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(take(&mut queue).as_deref(), Some("q"), "during the attempt it counts too");
    assert_eq!(take(&mut queue), None);
}

#[tokio::test(start_paused = true)]
async fn gates_hold_a_pod_back() {
    let mut queue = queue();
    queue.put(pod("p", serde_json::json!({"containers": [], "schedulingGates": [{"name": "g"}]})));
    assert_eq!(take(&mut queue), None);
    queue.put(pod("p", serde_json::json!({"containers": []})));
    assert_eq!(take(&mut queue).as_deref(), Some("p"));
    queue.remove(&Key::new("a", "p"));
    assert!(queue.pods.is_empty() && queue.taken.is_empty() && queue.gated.is_empty());
}

#[tokio::test(start_paused = true)]
async fn refused_pods_are_counted_until_they_are_tried_again_or_leave() {
    let mut queue = queue();
    let key = Key::new("a", "p");
    let counted = |queue: &Queue| {
        let of = |plugin: &str| queue.metrics.unschedulable.with_label_values(&[plugin, Scheduler::SCHEDULER_NAME]).get();
        (of("NodeResourcesFit"), of("NodeAffinity"))
    };
    let refused = || Failed::Unschedulable(vec!["NodeResourcesFit", "NodeAffinity"]);
    queue.put(pod("p", serde_json::json!({"containers": []})));
    for _ in 0..2 {
        take(&mut queue);
        assert_eq!(counted(&queue), (0, 0), "an attempt is under way");
        queue.put_back(&key, "p", refused());
        assert_eq!(counted(&queue), (1, 1));
        queue.move_all("NodeAdd");
        assert_eq!(counted(&queue), (1, 1), "moved on, not tried yet");
        tokio::time::advance(LONGEST_BACKOFF).await;
    }
    take(&mut queue);
    queue.put_back(&key, "p", unschedulable());
    assert_eq!(counted(&queue), (1, 0), "only who refused last");
    queue.remove(&key);
    assert_eq!(counted(&queue), (0, 0), "deleted");
    queue.put_back(&key, "p", refused());
    assert_eq!(counted(&queue), (0, 0), "deleted during the attempt");
}
