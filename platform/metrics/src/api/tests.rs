//! Requests and answers, as upstream words them.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use prometheus::Registry;

use super::*;
use crate::{
    Config, Sources,
    labels::Labels,
    metrics::OwnMetrics,
    tsdb::{Sample, Tsdb},
};

fn handler() -> MetricsHandler {
    let db = Tsdb::in_memory();
    for (text, offset) in [("__name__=up,job=a", 0.0), ("__name__=up,job=b", 1.0), ("__name__=x_total,job=a", 10.0)] {
        let labels = Labels::from_pairs(text.split(',').map(|pair| pair.split_once('=').unwrap()));
        let (id, _) = db.series(&labels);
        db.append(&(0..10).map(|i| (id, Sample { t: i * 15_000, v: i as f64 + offset })).collect::<Vec<_>>());
    }
    let shared = Shared::new(Config::default(), Sources::default(), OwnMetrics::new(&Registry::new()).unwrap());
    shared.serve(Arc::new(db));
    MetricsHandler { shared }
}

async fn ask(method: &str, uri: &str, form: &str) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::copy_from_slice(form.as_bytes()))
        .unwrap();
    let response = handler().handle(request).await;
    (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
}

async fn check(method: &str, uri: &str, form: &str, status: u16, body: &str) {
    assert_eq!(ask(method, uri, form).await, (status, body.to_owned()), "{method} {uri} {form}");
}

fn bad(why: &str) -> String {
    format!("{{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":{}}}", serde_json::json!(why))
}

#[tokio::test]
async fn what_grafana_asks() {
    // Save & Test.
    let sum = r#"{"status":"success","data":{"resultType":"scalar","result":[4,"2"]}}"#;
    check("POST", "/api/v1/query", "query=1%2B1&time=4", 200, sum).await;
    check("GET", "/api/v1/query?query=1%2B1&time=4", "", 200, sum).await;
    let (status, info) = ask("GET", "/api/v1/status/buildinfo", "").await;
    assert!(status == 200 && !info.contains("features"), "{info}");
    check("POST", "/api/v1/status/buildinfo", "", 405, "Method Not Allowed\n").await;
    check("GET", "/api/v1/labels", "", 200, r#"{"status":"success","data":["__name__","job"]}"#).await;
    check("POST", "/api/v1/labels", "match[]=x_total", 200, r#"{"status":"success","data":["__name__","job"]}"#).await;
    check("GET", "/api/v1/label/job/values?match[]=up&limit=40000", "", 200, r#"{"status":"success","data":["a","b"]}"#).await;
    check(
        "GET",
        "/api/v1/label/job/values?limit=1",
        "",
        200,
        r#"{"status":"success","data":["a"],"warnings":["results truncated due to limit"]}"#,
    )
    .await;
    check("GET", "/api/v1/label/U__my_2e_label/values", "", 200, r#"{"status":"success","data":[]}"#).await;
    check("GET", "/api/v1/rules", "", 200, r#"{"status":"success","data":{"groups":[]}}"#).await;
    check("GET", "/api/v1/alerts", "", 200, r#"{"status":"success","data":{"alerts":[]}}"#).await;
    check("POST", "/api/v1/query_exemplars", "query=up&start=0&end=1", 200, r#"{"status":"success","data":[]}"#).await;
    check("GET", "/api/v1/metadata", "", 200, r#"{"status":"success","data":{}}"#).await;
}

#[tokio::test]
async fn values_have_upstreams_shape() {
    let vector = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[30.500,"2"]}]}}"#;
    check("GET", "/api/v1/query?query=up%7Bjob%3D%22a%22%7D&time=30.5", "", 200, vector).await;
    let matrix =
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"job":"a"},"values":[[0,"0"],[30,"4"]]}]}}"#;
    check("GET", "/api/v1/query_range?query=up%7Bjob%3D%22a%22%7D*2&start=0&end=30&step=30s", "", 200, matrix).await;
    let text = r#"{"status":"success","data":{"resultType":"string","result":[1.500,"x"]}}"#;
    check("GET", "/api/v1/query?query=%22x%22&time=1.5", "", 200, text).await;
    let series = r#"{"status":"success","data":[{"__name__":"up","job":"a"},{"__name__":"up","job":"b"}]}"#;
    check("GET", "/api/v1/series?match[]=up&match[]=%7Bjob%3D%22b%22%7D", "", 200, series).await;
    let special = r#"{"status":"success","data":{"resultType":"scalar","result":[0,"+Inf"]}}"#;
    check("GET", "/api/v1/query?query=1/0&time=1970-01-01T00:00:00Z", "", 200, special).await;
}

#[tokio::test]
async fn stats_are_told() {
    let stats = async |query: &str| {
        let (status, text) = ask("GET", query, "").await;
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200, "{text}");
        body["data"]["stats"].clone()
    };
    let range = "/api/v1/query_range?query=up%7Bjob%3D%22a%22%7D&start=0&end=30&step=30s";
    assert!(stats(range).await.is_null());
    let some = stats(&format!("{range}&stats=true")).await;
    assert_eq!(some["samples"]["totalQueryableSamples"], 2, "{some}");
    assert!(some["samples"].get("totalQueryableSamplesPerStep").is_none() && some["timings"]["execTotalTime"].is_f64(), "{some}");
    let all = stats(&format!("{range}&stats=all")).await;
    assert_eq!(all["samples"]["totalQueryableSamplesPerStep"], serde_json::json!([[0, 1], [30, 1]]), "{all}");
    // Windows count whole, subqueries by what they give.
    let window = stats("/api/v1/query?query=sum_over_time(x_total%5B60s%5D)&time=60&stats=all").await;
    assert_eq!(window["samples"]["totalQueryableSamplesPerStep"], serde_json::json!([[60, 4]]), "{window}");
    let nested = stats("/api/v1/query?query=sum_over_time(x_total%5B60s:30s%5D)&time=60&stats=all").await;
    assert_eq!(nested["samples"]["totalQueryableSamplesPerStep"], serde_json::json!([[60, 2]]), "{nested}");
}

#[tokio::test]
async fn federation() {
    let now = jiff::Timestamp::now().as_millisecond() - 1000;
    let db = Tsdb::in_memory();
    for (labels, value) in [
        (&[("__name__", "up"), ("job", "a")][..], 1.0),
        (&[("Zone", "z"), ("__name__", "up")], 0.5),
        (&[("Zone", "z"), ("__name__", "x_total"), ("instance", "i")], 2.0),
        (&[("__name__", "gone")], f64::from_bits(0x7ff0_0000_0000_0002)),
    ] {
        let (id, _) = db.series(&Labels::from_pairs(labels.iter().copied()));
        db.append(&[(id, Sample { t: now, v: value })]);
    }
    let shared = Shared::new(Config::default(), Sources::default(), OwnMetrics::new(&Registry::new()).unwrap());
    shared.serve(Arc::new(db));
    let uri = "/federate?match[]=up&match[]=%7B__name__%3D~%22x.*%7Cgone%7Cup%22%7D";
    let request = Request::builder().uri(uri).body(Bytes::new()).unwrap();
    let response = MetricsHandler { shared }.handle(request).await;
    let text = String::from_utf8(response.body().to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("# TYPE")).count(), 2, "{text}");
    let told = |line: &str| lines.contains(&format!("{line} {now}").as_str());
    assert!(told(r#"up{job="a",instance=""} 1"#), "{text}");
    assert!(told(r#"up{Zone="z",instance=""} 0.5"#), "{text}");
    assert!(told(r#"x_total{Zone="z",instance="i"} 2"#), "{text}");
}

#[tokio::test]
async fn mistakes_are_named() {
    let resolution =
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
    check("GET", "/api/v1/query_range?query=up&start=0&end=11001&step=1", "", 400, &bad(resolution)).await;
    check("GET", "/api/v1/series", "", 400, &bad("no match[] parameter provided")).await;
    let time = "invalid parameter \"time\": cannot parse \"x\" to a valid timestamp";
    check("GET", "/api/v1/query?query=up&time=x", "", 400, &bad(time)).await;
    let step =
        "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer";
    check("GET", "/api/v1/query_range?query=up&start=0&end=1&step=0", "", 400, &bad(step)).await;
    let order = "invalid parameter \"end\": end timestamp must not be before start time";
    check("GET", "/api/v1/query_range?query=up&start=2&end=1&step=1", "", 400, &bad(order)).await;
    let range =
        "invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector";
    check("GET", "/api/v1/query_range?query=up[1m]&start=0&end=1&step=1", "", 400, &bad(range)).await;
    let (status, body) = ask("GET", "/api/v1/query?query=sum(up", "").await;
    assert!(
        status == 400 && body.contains(r#""errorType":"bad_data","error":"invalid parameter \"query\": parse error: "#),
        "{body}"
    );
    let (status, body) = ask("GET", "/api/v1/query?query=up%2Bon()up&time=30", "").await;
    assert!(status == 422 && body.contains(r#""errorType":"execution""#), "{body}");
    let selector = "invalid parameter \"match[]\": parse error: unexpected \"(\"";
    check("GET", "/api/v1/series?match[]=sum(up)", "", 400, &bad(selector)).await;
    check("GET", "/api/v1/nope", "", 404, "404 page not found\n").await;
    check("DELETE", "/api/v1/query", "", 405, "Method Not Allowed\n").await;
    let (status, body) = ask("GET", "/api/v1/query?query=up&timeout=0", "").await;
    assert!(status == 503 && body.contains(r#""errorType":"timeout""#), "{body}");
}

#[tokio::test]
async fn a_query_may_say_how_far_it_looks_back() {
    // The last sample is of 135.
    let there = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":"a"},"value":[200,"18"]}]}}"#;
    let nothing = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
    for (lookback, body) in [("", there), ("1m", nothing), ("65", nothing), ("65.001", there), ("0", there), ("-1s", there)] {
        let form = format!("query=up{{job=\"a\"}}*2&time=200&lookback_delta={lookback}");
        check("POST", "/api/v1/query", &form, 200, body).await;
    }
    let nothing = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
    check("GET", "/api/v1/query_range?query=up&start=200&end=210&step=5&lookback_delta=1m", "", 200, nothing).await;
    let wrong = bad("error parsing lookback delta duration: cannot parse \"x\" to a valid duration");
    check("GET", "/api/v1/query?query=up&lookback_delta=x", "", 400, &wrong).await;
    check("GET", "/api/v1/query_range?query=up&start=0&end=1&step=1&lookback_delta=x", "", 400, &wrong).await;
}

#[tokio::test]
async fn deep_queries_are_refused_wherever_they_come_in() {
    for query in ["(".repeat(5000) + "1" + &")".repeat(5000), "1".to_owned() + &"%2B1".repeat(5000), "abs(".repeat(6000)] {
        for page in ["query?query", "query_range?start=0&end=1&step=1&query", "format_query?query", "query_exemplars?query"] {
            let (status, body) = ask("GET", &format!("/api/v1/{page}={query}"), "").await;
            let refused = status == 400 && body.contains("parse error: expression is nested too deeply");
            assert!(refused, "{page}: {status} {body}");
        }
        for page in ["series", "labels", "label/job/values"] {
            let (status, body) = ask("GET", &format!("/api/v1/{page}?match[]={query}"), "").await;
            let refused = status == 400 && body.contains("parse error: expression is nested too deeply");
            assert!(refused, "{page}: {status} {body}");
        }
    }
    // As deep as may be, on a test's small stack.
    for query in ["1".to_owned() + &"%2B1".repeat(200), "abs(".repeat(100) + "up" + &")".repeat(100)] {
        for page in ["query", "format_query"] {
            let (status, body) = ask("POST", &format!("/api/v1/{page}"), &format!("query={query}&time=30")).await;
            assert_eq!(status, 200, "{page}: {body}");
        }
    }
}

#[tokio::test]
async fn other_pages() {
    check("GET", "/-/healthy", "", 200, "Prometheus Server is Healthy.\n").await;
    check("GET", "/-/ready", "", 200, "Prometheus Server is Ready.\n").await;
    for page in ["targets", "scrape_pools", "status/runtimeinfo", "status/config", "status/flags", "status/tsdb"] {
        let (status, body) = ask("GET", &format!("/api/v1/{page}"), "").await;
        assert!(status == 200 && body.starts_with(r#"{"status":"success","data":{"#), "{page}: {body}");
    }
    let (_, body) = ask("GET", "/api/v1/format_query?query=sum(up)by(job)", "").await;
    assert_eq!(body, r#"{"status":"success","data":"sum by (job) (up)"}"#);
    // Before the store is open nothing is ready.
    let shared = Shared::new(Config::default(), Sources::default(), OwnMetrics::new(&Registry::new()).unwrap());
    let request = Request::get("/-/ready").body(Bytes::new()).unwrap();
    assert_eq!(MetricsHandler { shared }.handle(request).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn long_answers_are_compressed_when_asked() {
    let uri = "/api/v1/query_range?query=up&start=0&end=135&step=1";
    let request = Request::get(uri).header("accept-encoding", "deflate, gzip;q=0.9").body(Bytes::new()).unwrap();
    let response = handler().handle(request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&response.body()[..]), &mut text).unwrap();
    assert!(text.starts_with(r#"{"status":"success""#));
}
