//! Expressions, what they are and what they cost. Many cases restate the behaviour that `cel-spec`'s conformance tests and
//! Kubernetes' own tests describe.

use serde_json::{Value as Json, json};

use crate::{Bindings, Budget, Declaration, Environment, Program, RUNTIME_BUDGET, Type, Value};

fn object() -> Json {
    json!({"i": 5, "d": 1.5, "s": "text", "u": "Rook takes 👑", "n": null, "t": true, "list": [1, 2, 3], "names": ["a", "b"],
        "map": {"a": 1, "b": 2}, "deep": {"er": {"x": 1}}, "items": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]})
}

/// Evaluates over [`object`] without a schema, and shows the value or the error.
fn shown(source: &str) -> String {
    let object = object();
    let environment = Environment::new(["o"]);
    let program = match Program::compile(&environment, source) {
        Ok(program) => program,
        Err(error) => return format!("compile: {error}"),
    };
    let bindings = Bindings::new().json("o", &object);
    match program.evaluate(&bindings, &mut Budget::new(RUNTIME_BUDGET)) {
        Ok(value) => show(&value),
        Err(error) => format!("error: {error}"),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Type(name) => name.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(value)) => format!("optional({})", show(value)),
        other => other.to_json().map_or_else(|error| format!("error: {error}"), |json| json.to_string()),
    }
}

fn table(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(source, wanted)| {
            let found = shown(source);
            (found != *wanted).then(|| format!("{source}\n  wanted {wanted}\n  found  {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operators() {
    table(&[
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 2 - 3", "5"),
        ("-7 / 2", "-3"),
        ("-7 % 3", "-1"),
        ("1 / 0", "error: division by zero"),
        ("1 % 0", "error: modulus by zero"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("-(-9223372036854775808)", "error: integer overflow"),
        ("18446744073709551615u + 1u", "error: unsigned integer overflow"),
        ("0u - 1u", "error: unsigned integer overflow"),
        ("0x10 + 0xF", "31"),
        ("1.5 + 2.25", "3.75"),
        ("1.0 / 0.0 > 1.0", "true"),
        ("!true", "false"),
        ("!!true", "true"),
        ("'a' + 'b'", "\"ab\""),
        ("[1] + [2, 3]", "[1,2,3]"),
        ("true ? 1 : 2", "1"),
        ("false || true && false", "false"),
        ("1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3", "true"),
        ("'a' < 'b'", "true"),
        ("b'a' < b'b'", "true"),
        // Numbers of different kinds compare, and do not add.
        ("1 < 1.5", "true"),
        ("1u < 2", "true"),
        ("dyn(1) == 1.0", "true"),
        ("dyn(1u) == dyn(1)", "true"),
        ("dyn(1) == 'a'", "false"),
        ("o.i == 5.0", "true"),
        ("o.i + 1.0", "error: no such overload"),
        ("0.0 / 0.0 == 0.0 / 0.0", "false"),
        ("2 in [1, 2]", "true"),
        ("o.i in [1, 2]", "false"),
        ("'a' in {'a': 1}", "true"),
        ("1.0 in [1, 2].map(x, dyn(x))", "true"),
        ("[1, 2] == [1, 2]", "true"),
        ("{'a': 1} == {'a': 1}", "true"),
        ("null == null", "true"),
    ]);
}

#[test]
fn errors_are_absorbed() {
    table(&[
        ("true || 1 / 0 > 0", "true"),
        ("1 / 0 > 0 || true", "true"),
        ("false && 1 / 0 > 0", "false"),
        ("1 / 0 > 0 && false", "false"),
        ("1 / 0 > 0 && true", "error: division by zero"),
        ("false || 1 / 0 > 0", "error: division by zero"),
        ("true ? 1 : 1 / 0", "1"),
        ("[0, 1].exists(x, 1 / x == 1)", "true"),
        ("[0, 1].all(x, 1 / x == 2)", "false"),
        ("[0, 1].all(x, 1 / x == 1)", "error: division by zero"),
        ("o.x || true", "true"),
    ]);
}

#[test]
fn members() {
    table(&[
        ("o.deep.er.x", "1"),
        ("o['deep']['er'].x", "1"),
        ("o.missing", "error: no such key: missing"),
        ("o.list[1]", "2"),
        ("o.list[3]", "error: index out of bounds: 3"),
        ("o.list[-1]", "error: index out of bounds: -1"),
        (
            "[1, 2][1.0]",
            "compile: ERROR: <input>:1:7: found no matching overload for '_[_]' applied to '(list(int), double)'\n | [1, 2][1.0]\n | ......^",
        ),
        ("o.s.x", "error: no such overload"),
        ("has(o.i)", "true"),
        ("has(o.x)", "false"),
        ("has(o.n)", "true"),
        ("has(o.deep.er.x)", "true"),
        ("has(o.x.y)", "error: no such key: x"),
        ("has({'a': 1}.a)", "true"),
        ("{1: 'a', 2: 'b'}[dyn(2.0)]", "\"b\""),
        ("{'a': 1, 'a': 2}", "error: Failed with repeated key a"),
        ("o.`s`", "\"text\""),
    ]);
}

#[test]
fn macros() {
    table(&[
        ("o.list.all(x, x > 0)", "true"),
        ("o.list.exists(x, x == 2)", "true"),
        ("o.list.exists_one(x, x > 2)", "true"),
        ("o.list.map(x, x * 2)", "[2,4,6]"),
        ("o.list.map(x, x > 1, x * 2)", "[4,6]"),
        ("o.list.filter(x, x % 2 == 1)", "[1,3]"),
        ("o.map.map(k, k)", "[\"a\",\"b\"]"),
        ("o.map.all(k, v, v > 0 && k != '')", "true"),
        ("o.map.exists(k, v, v == 2)", "true"),
        ("o.list.existsOne(i, v, i == v - 1 && v == 2)", "true"),
        ("o.list.transformList(i, v, i * v)", "[0,2,6]"),
        ("o.list.transformList(i, v, v > 1, i * v)", "[2,6]"),
        ("o.map.transformMap(k, v, v + 1)", "{\"a\":2,\"b\":3}"),
        ("o.map.transformMapEntry(k, v, {string(v): k})", "{\"1\":\"a\",\"2\":\"b\"}"),
        ("o.list.transformMapEntry(i, v, {'k': v})", "error: insert failed: key k already exists"),
        ("cel.bind(x, o.i + 1, x * x)", "36"),
        ("cel.bind(x, 1 / 0, 2)", "2"),
        ("[[1, 2], [3]].map(x, x.map(y, y + 1))", "[[2,3],[4]]"),
        ("[1, 2].map(x, [3].map(x, x))", "[[3],[3]]"),
        ("o.items.map(e, e.k)", "[\"a\",\"b\"]"),
        ("o.i.all(x, true)", "error: no such overload"),
    ]);
}

#[test]
fn optionals() {
    table(&[
        ("o.?i", "optional(5)"),
        ("o.?x", "none"),
        ("o.?x.y.z", "none"),
        ("o.?deep.er.x", "optional(1)"),
        ("o[?'i'].orValue(1)", "5"),
        ("o.list[?9].orValue(0)", "0"),
        ("o.list[?1]", "optional(2)"),
        ("o.?x.orValue('none')", "\"none\""),
        ("o.?x.or(o.?i).value()", "5"),
        ("o.?x.value()", "error: optional.none() dereference"),
        ("o.?x.hasValue()", "false"),
        ("optional.of(1).optMap(v, v + 1)", "optional(2)"),
        ("o.?x.optMap(v, v + 1).orValue(-1)", "-1"),
        ("o.?i.optFlatMap(v, v > 1 ? optional.of('big') : optional.none())", "optional(\"big\")"),
        ("optional.ofNonZeroValue(0)", "none"),
        ("optional.ofNonZeroValue('a')", "optional(\"a\")"),
        ("[?o.?x, ?o.?i]", "[5]"),
        ("{?'a': o.?x, ?'b': o.?i}", "{\"b\":5}"),
        ("optional.of(1) == optional.of(1)", "true"),
        ("optional.unwrap([optional.of(1), optional.none()])", "[1]"),
        ("[1, 2].first().value() + [1, 2].last().value()", "3"),
    ]);
}

#[test]
fn strings() {
    table(&[
        ("size('héllo')", "5"),
        ("'tacocat'.charAt(3)", "\"o\""),
        ("'tacocat'.charAt(7)", "\"\""),
        ("'tacocat'.charAt(8)", "error: index out of range: 8"),
        ("'tacocat'.indexOf('ac')", "1"),
        ("'tacocat'.indexOf('')", "0"),
        ("'tacocat'.indexOf('a', 3)", "5"),
        ("'tacocat'.lastIndexOf('at')", "5"),
        ("'tacocat'.lastIndexOf('a', 3)", "1"),
        ("'TacoCÆt'.lowerAscii()", "\"tacocÆt\""),
        ("'tacoCÆt'.upperAscii()", "\"TACOCÆT\""),
        ("'hello hello'.replace('he', 'we')", "\"wello wello\""),
        ("'hello hello'.replace('he', 'we', 1)", "\"wello hello\""),
        ("'a b c'.split(' ')", "[\"a\",\"b\",\"c\"]"),
        ("'a b c'.split(' ', 2)", "[\"a\",\"b c\"]"),
        ("'abc'.split('')", "[\"a\",\"b\",\"c\"]"),
        ("'abc'.split('', 2)", "[\"a\",\"bc\"]"),
        ("'abc'.split('b', 0)", "[]"),
        ("'tacocat'.substring(4)", "\"cat\""),
        ("'tacocat'.substring(0, 4)", "\"taco\""),
        ("'tacocat'.substring(5, 4)", "error: invalid substring range. start: 5, end: 4"),
        ("' \\f\\n a '.trim()", "\"a\""),
        ("['x', 'y'].join('-')", "\"x-y\""),
        ("strings.quote('a\"b\\n')", "\"\\\"a\\\\\\\"b\\\\n\\\"\""),
        ("'%d %s %.2f'.format([1, 'a', 1.0])", "\"1 a 1.00\""),
        ("'%s'.format([[1, 'a']])", "\"[1, \\\"a\\\"]\""),
        ("'%x %X %b %o'.format([255, 255, 5, 8])", "\"ff FF 101 10\""),
        ("'%e'.format([3.14])", "\"3.140000×10⁰⁰\""),
        (
            "'%d %s %f %s %s'.format([1, 'abc', 1.0, duration('1m'), timestamp('2000-01-01T00:00:00.000Z')])",
            "\"1 abc 1.000000 60s 2000-01-01T00:00:00Z\"",
        ),
        ("'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')", "true"),
        ("'abc'.matches('^[a-c]+$')", "true"),
        ("matches('abc', 'z')", "false"),
        ("'abc 123'.find('[0-9]+')", "\"123\""),
        ("'1 2 3'.findAll('[0-9]', 2)", "[\"1\",\"2\"]"),
        ("r'\\d' == '\\\\d'", "true"),
        ("'\\u00e9\\x41\\101'", "\"éAA\""),
        ("b'\\xff' == b'\\377'", "true"),
        ("'''a\n'b'''", "\"a\\n'b\""),
        ("o.u.size()", "12"),
    ]);
}

#[test]
fn conversions() {
    table(&[
        ("int('5') + int(5.9) + int(5u)", "15"),
        ("int('x')", "error: type conversion error from 'string' to 'int'"),
        ("int(1e30)", "error: integer overflow"),
        ("uint(-1)", "error: unsigned integer overflow"),
        ("double('1.5')", "1.5"),
        ("string(1.5)", "\"1.5\""),
        ("string(1000000.0)", "\"1e+06\""),
        ("string(b'abc')", "\"abc\""),
        ("string(true)", "\"true\""),
        ("bytes('a')", "\"YQ==\""),
        ("bool('true')", "true"),
        ("type(1)", "int"),
        ("type(o.s) == string", "true"),
        ("type(duration('1s')) == google.protobuf.Duration", "true"),
        ("type([1])", "list"),
        ("type(type(1))", "type"),
        ("type(null) == null_type", "true"),
    ]);
}

#[test]
fn times() {
    table(&[
        ("duration('1h30m') + duration('30m')", "\"7200s\""),
        ("string(duration('3723.004s'))", "\"3723.004s\""),
        ("duration('1h').getMinutes()", "60"),
        ("duration('1h1s').getSeconds()", "3601"),
        ("timestamp('2011-08-18T19:03:37.01Z').getFullYear()", "2011"),
        ("timestamp('2011-08-18T19:03:37.01Z').getMonth()", "7"),
        ("timestamp('2011-08-18T19:03:37.01Z').getDate()", "18"),
        ("timestamp('2011-08-18T19:03:37.01Z').getDayOfMonth()", "17"),
        ("timestamp('2011-08-18T19:03:37.01Z').getDayOfWeek()", "4"),
        ("timestamp('2011-08-18T19:03:37.01Z').getMilliseconds()", "10"),
        ("timestamp('2011-08-18T23:03:37Z').getDate('01:00')", "19"),
        ("timestamp('2011-08-18T00:03:37Z').getDate('-01:00')", "17"),
        ("timestamp('2011-08-18T00:00:00Z') + duration('1s') > timestamp('2011-08-18T00:00:00Z')", "true"),
        ("timestamp('2011-08-18T00:00:10Z') - timestamp('2011-08-18T00:00:00Z')", "\"10s\""),
        ("timestamp('9999-12-30T21:59:59Z') + duration('1h')", "error: timestamp overflow"),
        ("int(timestamp('1970-01-01T00:01:00Z'))", "60"),
        ("timestamp(60)", "\"1970-01-01T00:01:00Z\""),
        ("timestamp(o.s)", "error: type conversion error from 'string' to 'google.protobuf.Timestamp'"),
        ("timestamp('x')", "compile: ERROR: <input>:1:11: invalid timestamp argument\n | timestamp('x')\n | ..........^"),
    ]);
}

#[test]
fn libraries() {
    table(&[
        ("[1, 2, 3].isSorted() && !['b', 'a'].isSorted()", "true"),
        ("[1, 2, 3].sum() + [1, 2].max() + [1, 2].min()", "9"),
        ("[1].filter(x, false).max()", "error: max called on empty list"),
        ("[1, 2, 2].indexOf(2) + [1, 2, 2].lastIndexOf(2)", "3"),
        ("[3, 1, 2].sort()", "[1,2,3]"),
        ("[1, 2, 2].distinct()", "[1,2]"),
        ("[1, 2, 3].reverse()", "[3,2,1]"),
        ("[1, 2, 3].slice(1, 3)", "[2,3]"),
        ("[1, 2].slice(1, 3)", "error: cannot slice(1, 3), list is length 2"),
        ("[[1], [2, 3]].flatten()", "[1,2,3]"),
        ("lists.range(3)", "[0,1,2]"),
        ("o.items.sortBy(e, -e.v).map(e, e.v)", "[2,1]"),
        ("[1, 2].includes(2)", "true"),
        ("sets.contains([1, 2, 3], [1, 2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])", "true"),
        ("url('https://user@example.com:80/a b?k=1').getHost()", "\"example.com:80\""),
        ("url('https://example.com/?k=1&k=2').getQuery()", "{\"k\":[\"1\",\"2\"]}"),
        ("isURL('../x')", "false"),
        ("ip('192.168.0.1').family()", "4"),
        ("isIP('::ffff:1.2.3.4')", "false"),
        ("ip.isCanonical('2001:DB8::1')", "false"),
        ("ip('127.0.0.1').isLoopback() && ip('fe80::1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast()", "true"),
        ("ip('1.2.3.4') == ip('1.2.3.4')", "true"),
        ("string(ip('1.2.3.4'))", "\"1.2.3.4\""),
        ("cidr('192.168.0.0/24').containsIP('192.168.0.9')", "true"),
        ("cidr('192.168.0.0/24').containsCIDR('192.168.0.0/25')", "true"),
        ("cidr('192.168.0.0/24').containsIP(ip('192.168.1.9'))", "false"),
        ("string(cidr('192.168.0.5/24').masked())", "\"192.168.0.0/24\""),
        ("cidr('10.0.0.0/8').prefixLength()", "8"),
        ("isCIDR('10.0.0.0/33')", "false"),
        ("quantity('1Gi').isGreaterThan(quantity('1G'))", "true"),
        ("quantity('50k').add(quantity('20k')) == quantity('70k')", "true"),
        ("quantity('50k').sub(20000).asInteger()", "30000"),
        ("isQuantity('1.3.3')", "false"),
        ("quantity('200M').compareTo(quantity('0.2G'))", "0"),
        ("semver('1.2.3').isLessThan(semver('1.10.0'))", "true"),
        ("semver('v1.0', true).major()", "1"),
        ("isSemver('v1.0')", "false"),
        ("format.dns1123Label().validate('my-name').hasValue()", "false"),
        ("format.dns1123Label().validate('MY').hasValue()", "true"),
        ("format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000')", "none"),
        ("format.named('nothing')", "none"),
        ("jsonpatch.escapeKey('a/b~c')", "\"a~1b~0c\""),
        ("Object{spec: Object.spec{replicas: 1}}", "{\"spec\":{\"replicas\":1}}"),
        ("[JSONPatch{op: 'add', path: '/a', value: 1}]", "[{\"op\":\"add\",\"path\":\"/a\",\"value\":1}]"),
    ]);
}

#[test]
fn refusals() {
    table(&[
        ("x", "compile: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x\n | ^"),
        ("f(1)", "compile: ERROR: <input>:1:2: undeclared reference to 'f' (in container '')\n | f(1)\n | .^"),
        (
            "1 + 'a'",
            "compile: ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "'a'.charAt('b')",
            "compile: ERROR: <input>:1:11: found no matching overload for 'charAt' applied to 'string.(string)'\n | 'a'.charAt('b')\n | ..........^",
        ),
        ("1 && true", "compile: ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | 1 && true\n | ^"),
        ("[1, 'a']", "compile: ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        (
            "1.all(x, true)",
            "compile: ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.all(x, true)\n | ^",
        ),
        ("has(o)", "compile: ERROR: <input>:1:5: invalid argument to has() macro\n | has(o)\n | ....^"),
        ("1.all(2, 3)", "compile: ERROR: <input>:1:7: argument must be a simple name\n | 1.all(2, 3)\n | ......^"),
        ("namespace", "compile: ERROR: <input>:1:1: reserved identifier: namespace\n | namespace\n | ^"),
        ("0xFFFFFFFFFFFFFFFFF", "compile: ERROR: <input>:1:1: invalid int literal\n | 0xFFFFFFFFFFFFFFFFF\n | ^"),
        ("1 + 2\n3 +", "compile: ERROR: <input>:2:1: Syntax error: mismatched input '3' expecting <EOF>\n | 3 +\n | ^"),
        ("a b", "compile: ERROR: <input>:1:3: Syntax error: extraneous input 'b' expecting <EOF>\n | a b\n | ..^"),
        (
            "1 +",
            "compile: ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        ("f(1", "compile: ERROR: <input>:1:4: Syntax error: missing ')' at '<EOF>'\n | f(1\n | ...^"),
        ("'a'.matches('(')", "compile: ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^"),
    ]);
}

#[test]
fn deep_and_long_expressions() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(shown(&nested(80)), "1");
    for source in [
        nested(100_000 / 2 - 1),
        format!("{}true", "[".repeat(50_000)),
        "1+".repeat(40_000) + "1",
        "o".to_owned() + &".a".repeat(40_000),
        format!("{}1{}", "[1].map(x, ".repeat(5_000), ")".repeat(5_000)),
    ] {
        let found = shown(&source);
        assert!(found.starts_with("compile: ERROR"), "{}", &found[..found.len().min(100)]);
    }
    // Long chains of these are no deeper than they have to be.
    assert_eq!(shown(&("true && ".repeat(5_000) + "true")), "true");
    assert_eq!(shown(&("!".repeat(1_001) + "true")), "false");
    assert!(shown(&"a".repeat(100_001)).contains("expression code point size exceeds limit"));
}

/// What evaluating over [`object`] costs.
fn cost(source: &str) -> u64 {
    let object = object();
    let program = Program::compile(&Environment::new(["o"]), source).expect(source);
    let mut budget = Budget::new(RUNTIME_BUDGET);
    let _ = program.evaluate(&Bindings::new().json("o", &object), &mut budget);
    budget.spent()
}

#[test]
fn costs() {
    // As cel-go counts them, constants folded.
    for (source, wanted) in [
        ("'Hello World!'", 0),
        ("o", 1),
        ("o.i", 2),
        ("o['i']", 2),
        ("o.list[0]", 3),
        ("o['i' + '']", 3),
        ("has(o.i)", 1),
        ("has(o.deep.er)", 2),
        ("[1, 2, 3]", 0),
        ("[o.i]", 12),
        ("{'a': o.i}", 32),
        ("o.list.all(x, true)", 12),
        ("true || false", 0),
        ("o.t && o.t", 4),
        ("1 < 2", 1),
        ("o.i in [1, 2]", 2),
        ("1 in o.list", 5),
        ("true ? 1 : 2", 0),
        ("o.t ? o.i : o.d", 3),
        ("(1 > 2 ? 5 : 3) > 1", 2),
        ("'12345678901234567890' == '123456789012345678901234567890'", 2),
        ("[1, 2, 3, 4, 5].filter(x, x % 2 == 0)", 42),
        ("[1, 2, 3, 4, 5].map(x, x)", 66),
        ("o.s.startsWith('te')", 3),
        ("o.s.matches('[0-9]')", 4),
        ("o.i == o.i", 5),
        ("type(o.i) == int", 4),
        ("double(5) < 10.0", 1),
        ("o.u.upperAscii() == 'ROOK TAKES 👑'", 6),
        ("o.list.sum() > 0", 6),
        ("o.map.all(k, o.map[k] > 0)", 17),
        ("sets.contains(o.names, ['a'])", 5),
    ] {
        assert_eq!(cost(source), wanted, "{source}");
    }
}

#[test]
fn costs_are_bounded() {
    let object = json!({"list": (0..2000).collect::<Vec<i32>>(), "text": "a".repeat(20_000)});
    let environment = Environment::new(["o"]);
    let run = |source: &str, limit: u64| {
        let program = Program::compile(&environment, source).expect(source);
        let outcome = program.evaluate(&Bindings::new().json("o", &object), &mut Budget::new(limit));
        outcome.expect_err(source).to_string()
    };
    let limit = "operation cancelled: actual cost limit exceeded";
    assert_eq!(run("o.list.all(x, o.list.all(y, x + y >= 0))", RUNTIME_BUDGET), limit);
}

#[test]
fn limits_are_not_absorbed() {
    let object = json!({"list": (0..2000).collect::<Vec<i32>>(), "text": "a".repeat(20_000)});
    let run = |source: &str, limit: u64| {
        let program = Program::compile(&Environment::new(["o"]), source).expect(source);
        program.evaluate(&Bindings::new().json("o", &object), &mut Budget::new(limit))
    };
    let limit = "operation cancelled: actual cost limit exceeded";
    for source in [
        "o.list.all(x, o.list.all(y, x + y >= 0)) || true",
        "(o.text + o.text).contains(o.text)",
        "o.list.map(x, o.text).join('').size() > 0 && o.list.map(x, o.text).join('').size() > 0",
    ] {
        assert_eq!(run(source, RUNTIME_BUDGET).expect_err(source).to_string(), limit, "{source}");
    }
    // What costs more than there is in all is told so, whatever one expression may cost.
    for (source, budget) in [("o.list.all(x, x >= 0)", 100), ("lists.range(1000000000000).size() > 0", RUNTIME_BUDGET)] {
        let error = run(source, budget).expect_err("more than that");
        assert!(error.is_out_of_cost() && error.to_string().contains("running out of cost budget"), "{error}");
    }
    assert!(run("true || o.list.all(x, o.list.all(y, x + y >= 0))", RUNTIME_BUDGET).is_ok());
}

fn schema() -> Json {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": 10},
            "count": {"type": "integer"},
            "ratio": {"type": "number"},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "wait": {"type": "string", "format": "duration"},
            "data": {"type": "string", "format": "byte"},
            "maybe": {"type": "string", "nullable": true},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "my-field": {"type": "string"},
            "namespace": {"type": "string"},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true}}}}})
}

#[test]
fn schemas_give_types() {
    let declaration = Declaration::new(&schema(), true).expect("a declaration");
    let environment = Environment::new([]).with_declaration("self", &declaration);
    let object = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "n", "namespace": "ns"}, "spec": {
        "name": "n", "count": 3, "ratio": 2, "port": "50%", "when": "2011-08-18T19:03:37Z", "wait": "1m", "data": "QUI=",
        "maybe": null, "any": {"a": 1}, "my-field": "x", "namespace": "y", "set": ["a", "b"],
        "keyed": [{"k": "a", "v": "1"}, {"k": "b", "v": "2"}], "labels": {"a-b": "c"},
        "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}}}});
    let run = |source: &str| match Program::compile(&environment, source) {
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        Ok(program) => {
            let bindings = Bindings::new().declared("self", &object, &declaration);
            match program.evaluate(&bindings, &mut Budget::new(RUNTIME_BUDGET)) {
                Ok(value) => show(&value),
                Err(error) => format!("error: {error}"),
            }
        }
    };
    for (source, wanted) in [
        ("self.metadata.name == 'n' && self.kind == 'Thing'", "true"),
        ("self.metadata.namespace", "ERROR: <input>:1:14: undefined field 'namespace'"),
        ("self.spec.missing", "ERROR: <input>:1:10: undefined field 'missing'"),
        ("self.spec.any.a", "ERROR: <input>:1:10: undefined field 'any'"),
        ("self.spec.count + 1", "4"),
        ("self.spec.count == 'a'", "ERROR: <input>:1:17: found no matching overload for '_==_' applied to '(int, string)'"),
        ("type(self.spec.ratio) == double && self.spec.ratio == 2.0", "true"),
        ("type(self.spec.port) == string && self.spec.port == '50%' && self.spec.port != 1", "true"),
        ("self.spec.when.getFullYear()", "2011"),
        ("self.spec.wait == duration('60s')", "true"),
        ("self.spec.data == b'AB'", "true"),
        ("has(self.spec.maybe)", "false"),
        ("self.spec.my__dash__field + self.spec.__namespace__", "\"xy\""),
        ("self.spec.set == ['b', 'a']", "true"),
        ("self.spec.set + ['b', 'c'] == ['a', 'b', 'c']", "true"),
        ("self.spec.keyed + self.spec.keyed == self.spec.keyed", "true"),
        ("self.spec.keyed == self.spec.keyed.map(x, x).reverse()", "true"),
        ("self.spec.labels['a-b']", "\"c\""),
        ("self.spec.labels.all(k, k.contains('-'))", "true"),
        ("self.spec.pod.metadata.name", "\"p\""),
        ("self.spec.pod.spec", "ERROR: <input>:1:14: undefined field 'spec'"),
        ("has(self.spec.labels.x)", "false"),
        ("has(self.spec.nothing)", "ERROR: <input>:1:4: undefined field 'nothing'"),
    ] {
        assert_eq!(run(source), wanted, "{source}");
    }
    assert_eq!(Program::compile(&environment, "self.spec.name").expect("an expression").result_type(), Type::String);
}

#[test]
fn costs_are_estimated() {
    let bounded = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 10},
        "list": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 3}},
        "open": {"type": "array", "items": {"type": "string"}}}});
    let declaration = Declaration::new(&bounded, false).expect("a declaration");
    let environment = Environment::new([]).with_declaration("self", &declaration);
    let max = |source: &str| Program::compile(&environment, source).expect(source).max_cost();
    assert_eq!(max("true"), 0);
    assert_eq!(max("self.name == 'abc'"), 3);
    // Two for the list, and for each of five: a name, a call, a name and a comparison; one for the result.
    assert_eq!(max("self.list.all(x, x == 'abc')"), 2 + 5 * (2 + 3) + 1);
    assert!(max("self.open.all(x, self.open.all(y, x == y))") > 10_000_000);
    assert!(max("self.list.all(x, self.list.all(y, x == y))") < 1_000);
}

#[test]
fn lazy_variables() {
    let environment = Environment::new(["object", "variables"]);
    let compile = |source: &str| Program::compile(&environment, source).expect(source);
    let members = vec![
        ("a".to_owned(), compile("object.i + 1")),
        ("b".to_owned(), compile("variables.a * 2")),
        ("broken".to_owned(), compile("object.missing")),
        ("self".to_owned(), compile("variables.self")),
    ];
    let object = object();
    let bindings = Bindings::new().json("object", &object).lazy("variables", &members);
    let mut budget = Budget::new(RUNTIME_BUDGET);
    let mut run = |source: &str| match compile(source).evaluate(&bindings, &mut budget) {
        Ok(value) => show(&value),
        Err(error) => error.to_string(),
    };
    assert_eq!(run("variables.b + variables.a"), "18");
    assert_eq!(run("variables.broken"), "composited variable \"broken\" fails to evaluate: no such key: missing");
    assert_eq!(run("variables.self"), "composited variable \"self\" fails to evaluate: no such key: self");
    assert_eq!(run("variables.c"), "no such key: c");
    assert_eq!(run("has(variables.a) && !has(variables.c)"), "true");
}

struct Rbac;

impl crate::Authorizer for Rbac {
    fn authorize(&self, attributes: &crate::CheckAttributes) -> crate::CheckDecision {
        let allowed =
            attributes.verb == "get" && (attributes.resource == "pods" || attributes.path.as_deref() == Some("/healthz"));
        crate::CheckDecision { allowed, reason: format!("{}/{}", attributes.namespace, attributes.name), ..Default::default() }
    }

    fn request_resource(&self) -> Option<crate::CheckAttributes> {
        Some(crate::CheckAttributes { resource: "pods".into(), ..Default::default() })
    }
}

#[test]
fn authorizer() {
    let environment = Environment::new(["authorizer"]);
    let bindings = Bindings::new().authorizer(&Rbac);
    for (source, wanted) in [
        ("authorizer.group('').resource('pods').namespace('a').name('b').check('get').allowed()", "true"),
        ("authorizer.group('').resource('pods').namespace('a').name('b').check('get').reason()", "\"a/b\""),
        ("authorizer.group('').resource('secrets').check('get').allowed()", "false"),
        ("authorizer.path('/healthz').check('get').allowed()", "true"),
        ("authorizer.requestResource.check('get').allowed()", "true"),
        ("authorizer.serviceAccount('ns', 'sa').group('apps').resource('x').subresource('y').check('get').errored()", "false"),
    ] {
        let program = Program::compile(&environment, source).expect(source);
        let value = program.evaluate(&bindings, &mut Budget::new(RUNTIME_BUDGET)).expect(source);
        assert_eq!(show(&value), wanted, "{source}");
    }
    assert!(Program::compile(&environment, "authorizer.check('get')").is_err());
}

#[test]
fn costs_are_those_of_upstream() {
    // `apiextensions-apiserver/pkg/apiserver/schema/cel/{celcoststability,compilation}_test.go`.
    let text = json!({"type": "string"});
    let schema = json!({"type": "object", "properties": {
        "val": {"type": "object", "additionalProperties": {"type": "integer"}},
        "array": {"type": "array", "items": {"type": "integer"}},
        "min": {"x-kubernetes-int-or-string": true}, "current": {"type": "integer"}, "available": {"type": "integer"},
        "listMap": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": text, "v": text, "v2": text}}}}});
    let object = json!({"val": {"b": 1, "d": 2}, "array": [1, 1, 2, 2, 3, 3, 4, 5], "min": "50%", "current": 5, "available": 10,
        "listMap": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}]});
    let declaration = Declaration::new(&schema, false).expect("a declaration");
    let environment = Environment::new([]).with_declaration("self", &declaration);
    for (source, wanted) in [
        ("!('a' in self.val)", 4),
        ("self.val.all(k, self.val[k] > 0)", 17),
        ("!self.val.exists(k, self.val[k] == 3)", 20),
        ("size(self.val.filter(k, self.val[k] > 1)) == 1", 26),
        ("self.val.all(k, v, v > 0)", 13),
        ("self.val.transformMap(k, v, v > 1, v + 1).size() == 1", 14),
        ("self.val.transformMapEntry(k, v, v > 1, {k + '2': v + 1}).size() == 1", 45),
        ("has(self.listMap[0].v)", 3),
        ("self.listMap.all(m, !has(m.v2) || m.v2 == 'z')", 21),
        ("self.listMap.exists_one(m, m.k == 'a3')", 15),
        ("self.listMap.map(m, m.v).exists(v, v == 'b1')", 55),
        ("self.listMap.exists(m, m.v2 == 'z')", 24),
        ("self.listMap.transformList(i, m, m.v).size() == 3", 47),
        ("2 in self.array", 10),
        ("self.array.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)", 194),
        ("self.array.transformList(i, e, e > 2, e * 2).size() > 0", 77),
        (
            "type(self.min) == int ? self.current <= self.min : \
             double(self.current) / double(self.available) >= double(self.min.replace('%', '')) / 100.0",
            17,
        ),
    ] {
        let program = Program::compile(&environment, source).expect(source);
        let mut budget = Budget::new(RUNTIME_BUDGET);
        let value = program.evaluate(&Bindings::new().declared("self", &object, &declaration), &mut budget);
        assert_eq!(value.map(|value| value.as_bool()), Ok(Some(true)), "{source}");
        assert_eq!(budget.spent(), wanted, "{source}");
    }
    let list = |item: &str| json!({"type": "array", "items": {"type": item}});
    for (schema, source, wanted) in [
        (list("number"), "self.all(x, true)", 4_718_591),
        (list("string"), "self.all(x, true)", 3_145_727),
        (list("boolean"), "self.all(x, true)", 1_887_437),
        (json!({"type": "object", "additionalProperties": {"type": "number"}}), "self.all(x, true)", 1_348_169),
        (json!({"type": "array", "maxItems": 10, "items": {"type": "number"}}), "self.all(x, true)", 32),
        (text.clone(), "self.contains('test')", 314_574),
        (json!({"type": "string", "maxLength": 10}), "self.contains('test')", 5),
        (text.clone(), "self.startsWith('test')", 2),
        (text.clone(), "size(self + 'hello') > size('hello')", 314_578),
        (list("number"), "self[1] == 0.0", 2),
        (list("string"), "self[1] == self[1]", 314_577),
    ] {
        let declaration = Declaration::new(&schema, false).expect("a declaration");
        let environment = Environment::new([]).with_declaration("self", &declaration);
        let program = Program::compile(&environment, source).expect(source);
        assert_eq!(program.max_cost(), wanted, "{source} over {schema}");
    }
}
