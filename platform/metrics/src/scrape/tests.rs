use std::sync::Arc;

use pharos_telemetry::Registries;
use prometheus::{HistogramOpts, HistogramVec, IntGauge, Registry};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    http::Endpoint,
    target::{Health, Kind, Loop, Spec, Target},
};
use crate::{
    Config, Shared, Sources,
    labels::Labels,
    metrics::OwnMetrics,
    tsdb::{Tsdb, is_stale},
};

fn shared(config: Config) -> (Shared, Arc<Tsdb>) {
    let sources = Sources { registries: Registries::default(), ..Sources::default() };
    let shared = Shared::new(config, sources, OwnMetrics::new(&Registry::new()).unwrap());
    let db = Arc::new(Tsdb::in_memory());
    shared.serve(db.clone());
    (shared, db)
}

fn spec(kind: Kind, honor_labels: bool) -> Spec {
    let labels = Labels::from_pairs([("job", "j"), ("instance", "i")]);
    Spec { job: "j".into(), kind, labels, discovered: Labels::default(), honor_labels, honor_timestamps: true }
}

/// Every series with its samples, as `labels value@time…`.
fn dump(db: &Tsdb) -> Vec<String> {
    db.select(&[], i64::MIN, i64::MAX)
        .iter()
        .filter(|s| s.labels().name() != "scrape_duration_seconds")
        .map(|series| {
            let mut samples = Vec::new();
            series.read(i64::MIN, i64::MAX, &mut samples);
            let values =
                samples.iter().map(|s| if is_stale(s.v) { format!("stale@{}", s.t) } else { format!("{}@{}", s.v, s.t) });
            let labels = series.labels().to_string().replace(", instance=\"i\", job=\"j\"", "");
            format!("{labels} {}", values.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[tokio::test]
async fn a_registry_becomes_series() {
    let registry = Registry::new();
    let gauge = IntGauge::new("g", "G.").unwrap();
    registry.register(Box::new(gauge.clone())).unwrap();
    let histogram = HistogramVec::new(HistogramOpts::new("h", "H.").buckets(vec![1.0]), &["job"]).unwrap();
    registry.register(Box::new(histogram.clone())).unwrap();
    let (shared, db) = shared(Config::default());
    let target = Arc::new(Target::new("t", spec(Kind::Registry(registry), true)));
    let mut worker = Loop::new(target.clone(), shared);
    gauge.set(7);
    histogram.with_label_values(&["own"]).observe(0.5);
    worker.scrape(1000).await;
    histogram.reset();
    worker.scrape(2000).await;
    assert_eq!(
        dump(&db),
        [
            r#"{__name__="g"} 7@1000 7@2000"#,
            r#"{__name__="h_bucket", instance="i", job="own", le="+Inf"} 1@1000 stale@2000"#,
            r#"{__name__="h_bucket", instance="i", job="own", le="1.0"} 1@1000 stale@2000"#,
            r#"{__name__="h_count", instance="i", job="own"} 1@1000 stale@2000"#,
            r#"{__name__="h_sum", instance="i", job="own"} 0.5@1000 stale@2000"#,
            r#"{__name__="scrape_samples_post_metric_relabeling"} 5@1000 1@2000"#,
            r#"{__name__="scrape_samples_scraped"} 5@1000 1@2000"#,
            r#"{__name__="scrape_series_added"} 5@1000 0@2000"#,
            r#"{__name__="up"} 1@1000 1@2000"#,
        ]
    );
    let state = target.state.lock();
    assert_eq!((state.health, state.metadata["g"].kind.as_str()), (Health::Up, "gauge"));
}

#[tokio::test]
async fn a_failed_scrape_ends_the_series() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        for answer in ["200 OK\r\nContent-Length: 22\r\n\r\na 1\nb{job=\"x\"} 2 500\nc", "500 No\r\nContent-Length: 0\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await.unwrap();
            let answer = format!("HTTP/1.1 {}", answer.replace("\nc", "\n\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let (shared, db) = shared(Config::default());
    let endpoint = Endpoint { tls: None, scheme: "http", host: "127.0.0.1".into(), port, path: "/metrics".into() };
    let target = Arc::new(Target::new("t", spec(Kind::Http(endpoint), false)));
    let mut worker = Loop::new(target.clone(), shared);
    let scrape = async {
        worker.scrape(1000).await;
        worker.scrape(2000).await;
    };
    tokio::join!(serve, scrape);
    let series = dump(&db);
    assert_eq!(series[0], r#"{__name__="a"} 1@1000 stale@2000"#);
    // A time of its own: no marker. A label of its own: out of the way.
    assert_eq!(series[1], r#"{__name__="b", exported_job="x"} 2@500"#);
    assert_eq!(series.last().unwrap(), r#"{__name__="up"} 1@1000 0@2000"#);
    assert_eq!(target.state.lock().error, "server returned HTTP status 500 Internal Server Error");
}

#[tokio::test]
async fn limits_fail_the_whole_scrape() {
    let (shared, db) = shared(Config { sample_limit: 1, ..Config::default() });
    let target = Arc::new(Target::new("t", spec(Kind::Page(Arc::new(|| "a 1\nb 2\n".to_owned())), false)));
    Loop::new(target.clone(), shared).scrape(1000).await;
    assert_eq!(target.state.lock().error, "sample limit exceeded");
    assert!(dump(&db).contains(&r#"{__name__="up"} 0@1000"#.to_owned()));
}
