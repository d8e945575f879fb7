use pharos_telemetry::Clock;
use serde_json::Value as Json;

use super::*;
use crate::index::tests::{append, entries, open, seal};

const SECOND: i64 = 1_000_000_000;

async fn get(handler: &LogsHandler, target: &str) -> (StatusCode, String) {
    request(handler, Request::get(target), "").await
}

async fn request(handler: &LogsHandler, builder: http::request::Builder, body: impl Into<Bytes>) -> (StatusCode, String) {
    let response = handler.handle(builder.body(body.into()).unwrap()).await;
    let status = response.status();
    let body = response.into_body().into_bytes(64 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn encoded(query: &str) -> String {
    percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn data(body: &str) -> Json {
    let body: Json = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
    assert_eq!(body["status"], "success", "{body}");
    body["data"].clone()
}

/// A handler over the lines of `testdata/queries.json`: some sealed, some not.
async fn loaded(dir: &std::path::Path, cases: &Json) -> LogsHandler {
    let index = open(dir, usize::MAX);
    for (at, stream) in cases["streams"].as_array().unwrap().iter().enumerate() {
        let labels: Vec<_> =
            stream["stream"].as_object().unwrap().iter().map(|(n, v)| (n.as_str(), v.as_str().unwrap())).collect();
        let lines = stream["values"].as_array().unwrap().iter();
        let lines = lines.map(|line| (line[0].as_i64().unwrap() * SECOND, line[1].as_str().unwrap().to_owned()));
        append(&index, entries(&labels, lines));
        if at == 0 {
            seal(&index);
        }
    }
    LogsHandler::new(index, Clock::from_fn(|| jiff::Timestamp::from_second(60).unwrap()))
}

#[tokio::test]
async fn queries_give_what_they_should() {
    let cases: Json = serde_json::from_str(include_str!("../../testdata/queries.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let handler = loaded(dir.path(), &cases).await;
    for case in cases["logs"].as_array().unwrap() {
        let query = case["query"].as_str().unwrap();
        let target = format!(
            "/loki/api/v1/query_range?query={}&start={}&end={}&direction={}&limit={}",
            encoded(query),
            case["start"].as_i64().unwrap_or(0),
            case["end"].as_i64().unwrap_or(100),
            case["direction"].as_str().unwrap_or("backward"),
            case["limit"].as_i64().unwrap_or(100),
        );
        let (status, body) = get(&handler, &target).await;
        assert_eq!(status, StatusCode::OK, "{query}: {body}");
        let streams = data(&body)["result"].as_array().unwrap().clone();
        let mut lines: Vec<(i64, String)> = streams
            .iter()
            .flat_map(|stream| stream["values"].as_array().unwrap().clone())
            .map(|pair| (pair[0].as_str().unwrap().parse::<i64>().unwrap() / SECOND, pair[1].as_str().unwrap().to_owned()))
            .collect();
        lines.sort();
        if case["direction"] != "forward" {
            lines.reverse();
        }
        assert_eq!(serde_json::json!(lines), case["lines"], "{query}");
    }
    for (kind, path) in [("instant", "query"), ("range", "query_range")] {
        for case in cases[kind].as_array().unwrap() {
            let query = case["query"].as_str().unwrap();
            let mut target = format!("/loki/api/v1/{path}?query={}", encoded(query));
            for name in ["time", "start", "end", "step"] {
                if let Some(value) = case[name].as_i64() {
                    target += &format!("&{name}={value}");
                }
            }
            let (status, body) = get(&handler, &target).await;
            assert_eq!(status, StatusCode::OK, "{query}: {body}");
            let result = data(&body)["result"].as_array().unwrap().clone();
            let found: Vec<Json> = result
                .iter()
                .map(|series| {
                    let values = if kind == "instant" { series["value"][1].clone() } else { series["values"].clone() };
                    serde_json::json!([series["metric"], values])
                })
                .collect();
            assert_eq!(serde_json::json!(found), case["result"], "{query}");
        }
    }
}

#[tokio::test]
async fn grafana_s_calls_are_answered() {
    let cases: Json = serde_json::from_str(include_str!("../../testdata/queries.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let handler = loaded(dir.path(), &cases).await;
    let health = "/loki/api/v1/query?query=vector%281%29%2Bvector%281%29&direction=backward&time=4000000000";
    let (status, body) = get(&handler, health).await;
    assert_eq!((status, data(&body)["result"][0]["value"][1].as_str()), (StatusCode::OK, Some("2")));
    for (target, expected) in [
        ("labels?start=0&end=60", serde_json::json!(["app", "pod"])),
        ("label/app/values?start=0&end=60", serde_json::json!(["db", "web"])),
        ("label/pod/values?start=0&end=60&query={app=\"web\",pod!=\"a\"}", serde_json::json!(["b"])),
        ("series?start=0&end=60&match[]={app=\"db\"}", serde_json::json!([{"app": "db"}])),
    ] {
        let (path, query) = target.split_once('?').unwrap();
        let query: Vec<_> =
            query.split('&').map(|pair| pair.split_once('=').unwrap()).map(|(n, v)| format!("{n}={}", encoded(v))).collect();
        let (_, body) = get(&handler, &format!("/loki/api/v1/{path}?{}", query.join("&"))).await;
        assert_eq!(data(&body), expected, "{target}");
    }
    let (_, body) = get(&handler, &format!("/loki/api/v1/index/stats?query={}&start=0&end=60", encoded("{app=\"web\"}"))).await;
    let stats: Json = serde_json::from_str(&body).unwrap();
    assert_eq!((&stats["streams"], &stats["entries"]), (&2.into(), &5.into()));
    let volume = format!("/loki/api/v1/index/volume?query={}&start=0&end=60&limit=10", encoded("{app=~\".+\"}"));
    let result = data(&get(&handler, &volume).await.1)["result"].clone();
    assert_eq!((&result[0]["metric"]["app"], result.as_array().unwrap().len()), (&"web".into(), 2));
    let fields = format!("/loki/api/v1/detected_fields?query={}&start=0&end=60", encoded("{app=\"db\"}"));
    let fields: Json = serde_json::from_str(&get(&handler, &fields).await.1).unwrap();
    assert!(fields["fields"].as_array().unwrap().iter().any(|field| field["label"] == "n" && field["type"] == "int"), "{fields}");
    let categorized = Request::get(format!(
        "/loki/api/v1/query_range?query={}&start=0&end=60",
        encoded("{app=\"db\"} | json | level=\"error\"")
    ))
    .header("X-Loki-Response-Encoding-Flags", "categorize-labels");
    let found = data(&request(&handler, categorized, "").await.1);
    assert_eq!(found["encodingFlags"], serde_json::json!(["categorize-labels"]));
    assert_eq!(found["result"][0]["stream"], serde_json::json!({"app": "db"}));
    let beside = serde_json::json!({
        "structuredMetadata": {"detected_level": "error"},
        "parsed": {"level": "error", "n": "3", "query": "select"},
    });
    assert_eq!(found["result"][0]["values"][0][2], beside);
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let handler = LogsHandler::new(open(dir.path(), usize::MAX), Clock::system());
    for (target, status, message) in [
        ("/loki/api/v1/query_range?query=%7B", 400, "parse error at line 1, col 2"),
        ("/loki/api/v1/query_range", 400, "parse error"),
        ("/loki/api/v1/query?query=%7Ba%3D%22b%22%7D", 400, "log queries are not supported as an instant query type"),
        ("/loki/api/v1/query_range?query=%7Ba%3D%22b%22%7D&limit=0", 400, "limit must be a positive value"),
        ("/loki/api/v1/query_range?query=%7Ba%3D%22b%22%7D&limit=9999", 400, "max entries limit per query exceeded"),
        ("/loki/api/v1/query_range?query=%7Ba%3D%22b%22%7D&start=5&end=4", 400, "end timestamp must not be before"),
        ("/loki/api/v1/query_range?query=%7Ba%3D%22b%22%7D&start=yesterday", 400, "cannot parse"),
        ("/loki/api/v1/query_range?query=vector%281%29&start=0&end=100000&step=1", 400, "exceeded maximum resolution"),
        ("/loki/api/v1/nothing", 404, "404 page not found"),
    ] {
        let (found, body) = get(&handler, target).await;
        assert_eq!(found.as_u16(), status, "{target}: {body}");
        assert!(body.contains(message), "{target}: {body}");
    }
}

#[tokio::test]
async fn the_longest_chain_of_operators_fits_on_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let handler = LogsHandler::new(open(dir.path(), usize::MAX), Clock::system());
    for (operators, expected, text) in [(250, StatusCode::OK, "\"251\""), (5000, StatusCode::BAD_REQUEST, "250 operators")] {
        let query = format!("1{}", "+1".repeat(operators));
        let (status, body) = get(&handler, &format!("/loki/api/v1/query?query={}", encoded(&query))).await;
        assert!(status == expected && body.contains(text), "{operators}: {status} {body}");
    }
}

#[tokio::test]
async fn pushed_lines_are_found_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let handler = LogsHandler::new(open(dir.path(), usize::MAX), Clock::system());
    let json = r#"{"streams":[{"stream":{"app":"a"},"values":[["1000000000","from json",{"trace_id":"7"}]]}]}"#;
    let push = || Request::post("/loki/api/v1/push");
    let (status, body) = request(&handler, push().header("content-type", "application/json"), json).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    // labels {app="a"}, one entry at 2 s with the line "hi".
    let mut stream = vec![0x0a, 9];
    stream.extend_from_slice(br#"{app="a"}"#);
    stream.extend_from_slice(&[0x12, 8, 0x0a, 2, 0x08, 2, 0x12, 2, b'h', b'i']);
    let mut message = vec![0x0a, stream.len() as u8];
    message.extend_from_slice(&stream);
    let packed = snap::raw::Encoder::new().compress_vec(&message).unwrap();
    let (status, body) = request(&handler, push().header("content-type", "application/x-protobuf"), packed).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    let (_, body) = get(&handler, &format!("/loki/api/v1/query_range?query={}&start=0&end=9", encoded("{app=\"a\"}"))).await;
    assert!(body.contains("from json") && body.contains("trace_id") && body.contains("hi"), "{body}");
    for bad in ["", "{}", "nonsense", "\u{1}\u{2}\u{3}"] {
        let (status, _) = request(&handler, push().header("content-type", "application/x-protobuf"), bad).await;
        assert!(status == StatusCode::BAD_REQUEST || bad.is_empty(), "{bad:?}: {status}");
        let (status, _) = request(&handler, push().header("content-type", "application/json"), bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad:?}");
    }
}

#[tokio::test]
async fn what_is_no_label_s_name_is_not_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let handler = LogsHandler::new(open(dir.path(), usize::MAX), Clock::system());
    for (name, wrong) in [("1bad", "1"), ("a-b", "-"), ("a.b", "."), ("a b", " "), ("é", "é"), ("_a1", ""), ("", "=")] {
        let json = serde_json::json!({"streams": [{"stream": {"app": "a", name: "x"}, "values": [["1000000000", "hi"]]}]});
        let push = Request::post("/loki/api/v1/push").header("content-type", "application/json");
        let (status, body) = request(&handler, push, json.to_string()).await;
        if wrong.is_empty() {
            assert_eq!(status, StatusCode::NO_CONTENT, "{name:?}: {body}");
            continue;
        }
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name:?}");
        let message = format!("with error: parse error: unexpected character inside braces: '{wrong}'");
        assert!(body.starts_with("Error parsing labels '{") && body.ends_with(&message), "{name:?}: {body}");
    }
}

#[tokio::test]
async fn a_client_that_follows_gets_lines_as_they_come() {
    use futures::StreamExt as _;
    use tokio_tungstenite::tungstenite::{client::IntoClientRequest as _, protocol::Role};
    let dir = tempfile::tempdir().unwrap();
    let handler = LogsHandler::new(open(dir.path(), usize::MAX), Clock::system());
    let (client, server) = tokio::io::duplex(64 * 1024);
    let request = format!("ws://x/loki/api/v1/tail?query={}", encoded("{app=\"web\"} |= \"b\""));
    let request = request.into_client_request().unwrap().map(|_| ());
    let (head, mut client) = (request, client);
    let serving = handler.clone();
    let server = async move { serving.tail(head, Box::new(server)).await };
    let conversation = async {
        use tokio::io::AsyncReadExt as _;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        while handler.index.metrics.tails.get() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        append(&handler.index, entries(&[("app", "web")], [(7, "abc".to_owned()), (8, "xyz".to_owned())]));
        loop {
            let message = socket.next().await.unwrap().unwrap();
            if let Ok(text) = message.to_text()
                && !text.is_empty()
            {
                let frame: Json = serde_json::from_str(text).unwrap();
                assert_eq!(frame["streams"][0]["values"], serde_json::json!([["7", "abc"]]));
                break;
            }
        }
    };
    tokio::select! {
        () = server => panic!("the server hung up"),
        () = conversation => {}
    }
}
