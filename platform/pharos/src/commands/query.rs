//! `pharos query`: a PromQL query over the server's metrics.

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cli::{Output, QueryOptions},
    commands::{client, complain, duration, encoded, get, say},
};

const API: &str = "/observe/prometheus/api/v1";

pub async fn run(options: QueryOptions) -> anyhow::Result<()> {
    let client = client(&options.client.kubeconfig).await?;
    let query = encoded(&options.query);
    let path = match &options.range {
        None => format!("{API}/query?query={query}"),
        Some(range) => {
            let end = Timestamp::now();
            let start = end.checked_sub(duration(range)?)?;
            let step = duration(&options.step)?.as_secs_f64();
            format!("{API}/query_range?query={query}&start={}&end={}&step={step}", start.as_second(), end.as_second())
        }
    };
    let answer = get(&client, &path).await?;
    if options.output == Output::Json {
        say(&serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    for note in notes(&answer) {
        complain(note);
    }
    let data = answer.get("data").context("the answer has no data")?;
    match (data["resultType"].as_str(), data["result"].as_array()) {
        (Some("vector"), Some(series)) => {
            for one in series {
                say(&format!("{} {}", labels(&one["metric"]), one["value"][1].as_str().unwrap_or_default()));
            }
        }
        (Some("matrix"), Some(series)) => {
            for one in series {
                say(&labels(&one["metric"]));
                for point in one["values"].as_array().into_iter().flatten() {
                    let time = Timestamp::from_second(point[0].as_f64().unwrap_or_default() as i64)?;
                    say(&format!("  {time} {}", point[1].as_str().unwrap_or_default()));
                }
            }
        }
        (Some("scalar" | "string"), Some(point)) => say(point.get(1).and_then(Value::as_str).unwrap_or_default()),
        _ => bail!("the answer is of an unknown type"),
    }
    Ok(())
}

/// What the server remarks on a query that it answered.
fn notes(answer: &Value) -> impl Iterator<Item = &str> {
    let lists = ["warnings", "infos"].into_iter().filter_map(move |list| answer[list].as_array());
    lists.flatten().filter_map(Value::as_str)
}

/// `name{label="value"}`.
fn labels(metric: &Value) -> String {
    let name = metric["__name__"].as_str().unwrap_or_default();
    let pairs: Vec<String> = metric
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "__name__")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{name}{{{}}}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn remarks() {
        let answer = json!({"status": "success", "data": {}, "warnings": ["a"], "infos": ["b", "c"]});
        assert_eq!(notes(&answer).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(notes(&json!({"status": "success"})).count(), 0);
    }
}
