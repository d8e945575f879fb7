use super::*;
use crate::entry::{Entry, Labels, Stream};

#[test]
fn queries_are_read_or_refused_in_loki_s_words() {
    let mut wrong = Vec::new();
    for case in include_str!("../../testdata/parse.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (kind, query) = case.split_at(5);
        match kind.trim() {
            "ok" => drop(parse(query).unwrap_or_else(|error| panic!("{query}: {error}"))),
            _ => {
                let (query, message) = query.split_once(" => ").unwrap();
                let found = parse(query).map_or_else(|error| error.to_string(), |_| "understood".to_owned());
                if found != message {
                    wrong.push(format!("{query} => {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(parse(&deep).unwrap_err().to_string().contains("nested too deeply"));
}

#[test]
fn chains_are_bounded() {
    let filter = "{a=\"b\"} | c=1";
    for (first, next) in [("1", " + 1"), ("vector(1)", " or vector(1)"), (filter, " or c=1"), (filter, ", c=1")] {
        let chain = |n: usize| format!("{first}{}", next.repeat(n));
        assert!(parse(&chain(250)).is_ok(), "{next}");
        let error = parse(&chain(251)).unwrap_err().to_string();
        assert!(error.contains("expression has more than 250 operators"), "{next}: {error}");
    }
}

/// What a query makes of a line: its text and labels, or `None`.
fn check(query: &str, text: &str, expected: Option<(&str, &[(&str, &str)])>) {
    let Expr::Log(log) = parse(&format!("{{app=\"web\"}} {query}")).unwrap() else { panic!("{query} gives no lines") };
    let stream = Stream::exactly(Labels::new([("app", "web")]));
    let entry = Entry::new(0, &stream, text, vec![]);
    let line = Pipeline::new(&log.stages).run(entry.raw());
    let found = line.map(|line| {
        let mut labels = line.labels();
        labels.remove("detected_level");
        (line.text.into_owned(), labels)
    });
    let expected = expected.map(|(text, pairs)| {
        let mut labels = Labels::default();
        for (name, value) in pairs {
            labels.keep(*name, *value);
        }
        (text.to_owned(), labels)
    });
    assert_eq!(found, expected, "{query} on {text}");
}

#[test]
fn stages_do_what_they_do_in_loki() {
    let json = r#"{"a":{"b":1.0,"c":"x"},"list":[1],"app":"other","n":null,"5x":true}"#;
    check(
        "| json",
        json,
        Some((json, &[("a_b", "1.0"), ("a_c", "x"), ("app", "web"), ("app_extracted", "other"), ("_5x", "true")])),
    );
    check(r#"| json v="a.b", w="list[0]", z="no""#, json, Some((json, &[("app", "web"), ("v", "1.0"), ("w", "1"), ("z", "")])));
    check(r#"| json app="no""#, json, Some((json, &[("app", "web")])));
    let empty = r#"{"a":""}"#;
    check("| json", empty, Some((empty, &[("app", "web"), ("a", "")])));
    let bad = "not json";
    let marked = [("app", "web"), ("__error__", "JSONParserErr"), ("__error_details__", "expected ident at line 1 column 2")];
    check("| json", bad, Some((bad, &marked)));
    check(r#"| json | __error__="""#, bad, None);
    check("| json | drop __error__, __error_details__", bad, Some((bad, &[("app", "web")])));
    let logfmt = r#"level=warn msg="it \"took\" long" took=1.5s size=10KB empty= flag"#;
    let parsed = [("app", "web"), ("level", "warn"), ("msg", "it \"took\" long"), ("took", "1.5s"), ("size", "10KB")];
    check("| logfmt", logfmt, Some((logfmt, &parsed)));
    let with_empty: Vec<_> = parsed.into_iter().chain([("empty", ""), ("flag", "")]).collect();
    check("| logfmt --keep-empty", logfmt, Some((logfmt, with_empty.as_slice())));
    check(r#"| logfmt --keep-empty | flag="" | keep flag"#, logfmt, Some((logfmt, &[("flag", "")])));
    check(r#"| logfmt l="level", n="no""#, logfmt, Some((logfmt, &[("app", "web"), ("l", "warn"), ("n", "")])));
    check("| logfmt | took > 1s and size >= 10KB", logfmt, Some((logfmt, &parsed)));
    check("| logfmt | took > 2s", logfmt, None);
    check(r#"| logfmt l="level""#, logfmt, Some((logfmt, &[("app", "web"), ("l", "warn")])));
    check(
        r#"| logfmt | line_format "{{.level | ToUpper}}: {{.msg}}" | keep app"#,
        logfmt,
        Some(("WARN: it \"took\" long", &[("app", "web")])),
    );
    check(
        r#"| logfmt | label_format l=level, q="{{.took}}!" | keep l, q"#,
        logfmt,
        Some((logfmt, &[("l", "warn"), ("q", "1.5s!")])),
    );
    check(r#"| regexp "(?P<n>\\d+) of (?P<m>\\d+)""#, "3 of 4", Some(("3 of 4", &[("app", "web"), ("n", "3"), ("m", "4")])));
    check(r#"|= "a" != "b""#, "a", Some(("a", &[("app", "web")])));
    check(r#"|= "a" != "b""#, "ab", None);
    check(r#"|= "x" or "y""#, "yes", Some(("yes", &[("app", "web")])));
    check(r#"!= "x" or "y""#, "yes", None);
    check(r#"|= ip("10.0.0.0/8")"#, "from 10.1.2.3:80 to", Some(("from 10.1.2.3:80 to", &[("app", "web")])));
    check(r#"|= ip("10.0.0.0/8")"#, "from 11.1.2.3", None);
    check("| decolorize", "\u{1b}[31mred\u{1b}[0m", Some(("red", &[("app", "web")])));
    check("| unpack", r#"{"_entry":"text","pod":"a"}"#, Some(("text", &[("app", "web"), ("pod", "a")])));
    check(
        r#"| line_format "{{ printf `%-5s|%03d` .app 7 }}{{ if not .x }} none{{ end }}""#,
        "",
        Some(("web  |007 none", &[("app", "web")])),
    );
}
