//! The language, its libraries, its limits.
#![allow(clippy::unwrap_used)]

use caravel_cel::shapes::of_schema;
use caravel_cel::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn environment() -> Environment {
    Environment { messages: true, ..Environment::new([("object", Ty::Dyn), ("authorizer", Ty::Opaque(AUTHORIZER))]) }
}

struct Nobody;

impl Authorizer for Nobody {
    fn check(&self, verb: &str, check: &Check) -> Decision {
        Decision { allowed: verb == "get" && check.resource == "pods", ..Decision::default() }
    }
}

fn evaluate(source: &str, object: &Value) -> Result<Value, String> {
    let program = environment().compile(source).map_err(|e| e.to_string())?;
    let mut activation = Activation::new();
    activation.set("object", Val::json(object));
    activation.authorize(&Nobody, Check { resource: "pods".into(), ..Check::default() });
    let budget = Budget::new(REQUEST_BUDGET);
    let value = program.evaluate(&activation, &budget).map_err(|e| e.to_string())?;
    Ok(value.to_json().unwrap_or_else(|| json!(value.type_name())))
}

fn yields(table: &[(&str, Value)]) {
    let object = json!({"spec": {"replicas": 3, "name": "web", "list": [1, 2, 3], "labels": {"a": "1", "b": "2"},
        "containers": [{"name": "a", "image": "x/a:1"}, {"name": "b", "image": "y/b:2"}]}});
    for (source, wanted) in table {
        assert_eq!(evaluate(source, &object).as_ref(), Ok(wanted), "{source}");
    }
}

#[test]
fn the_language() {
    yields(&[
        ("1 + 2 * 3 - 4 / 2", json!(5)),
        ("-7 % 3", json!(-1)),
        ("1 == 1.0 && 1u == 1 && 2.5 > 2", json!(true)),
        ("'a' + 'b' == \"ab\"", json!(true)),
        ("r'\\d' + '\\n\\x41\\u00e9'", json!("\\d\nAé")),
        ("true ? 1 : 2", json!(1)),
        ("object.spec.replicas > 2", json!(true)),
        ("has(object.spec.none) || has(object.spec.name)", json!(true)),
        ("object.spec['name']", json!("web")),
        ("object.spec.list[1]", json!(2)),
        ("2 in object.spec.list && 'a' in object.spec.labels", json!(true)),
        ("{'a': 1}.a + {'b': 2}['b']", json!(3)),
        ("[1, 2] + [3]", json!([1, 2, 3])),
        ("object.spec.none == 1 || true", json!(true)),
        ("false && object.spec.none == 1", json!(false)),
        ("type(1) == int && type('a') == string && type([]) == list && type(null) == null_type", json!(true)),
        ("type(timestamp('2020-01-01T00:00:00Z')) == google.protobuf.Timestamp", json!(true)),
        ("size('héllo') + size([1]) + {'a': 1}.size()", json!(7)),
        ("int('12') + int(3.9) + int(2u)", json!(17)),
        ("string(1.5) + string(true) + string(7u)", json!("1.5true7")),
        ("// a comment\n 1", json!(1)),
    ]);
}

#[test]
fn the_macros() {
    yields(&[
        ("object.spec.containers.all(c, c.image.contains('/'))", json!(true)),
        ("object.spec.list.exists(i, i > 2) && !object.spec.list.exists(i, i > 3)", json!(true)),
        ("object.spec.list.exists_one(i, i == 2)", json!(true)),
        ("object.spec.list.filter(i, i > 1).map(i, i * 2)", json!([4, 6])),
        ("object.spec.list.map(i, i > 1, i * 2)", json!([4, 6])),
        ("object.spec.labels.all(k, object.spec.labels[k] != '')", json!(true)),
        ("object.spec.labels.exists(k, v, k == 'b' && v == '2')", json!(true)),
        ("object.spec.list.all(i, v, v == i + 1)", json!(true)),
        ("object.spec.list.transformList(i, v, i * v)", json!([0, 2, 6])),
        ("object.spec.labels.transformMap(k, v, v + k)", json!({"a": "1a", "b": "2b"})),
        ("object.spec.labels.transformMapEntry(k, v, {v: k})", json!({"1": "a", "2": "b"})),
        ("object.spec.list.sortBy(i, -i)", json!([3, 2, 1])),
        ("cel.bind(x, object.spec.replicas, x * x)", json!(9)),
        ("object.?spec.?none.orValue('d') + object.?spec.?name.orValue('d')", json!("dweb")),
        ("object.spec.?name.optMap(n, n.size()).value()", json!(3)),
        ("[?object.spec.?none, ?object.spec.?name]", json!(["web"])),
        ("{?'k': object.spec.?none, 'x': 1}", json!({"x": 1})),
        ("object.spec.list[?9].hasValue()", json!(false)),
        ("optional.none().or(optional.of(1)).value()", json!(1)),
        ("['format'].all(format, format.startsWith('f'))", json!(true)),
    ]);
}

#[test]
fn the_libraries() {
    yields(&[
        ("'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.matches('^a.c$')", json!(true)),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'abc'.substring(1) + 'abc'.charAt(0) + 'AbC'.lowerAscii() + ' x '.trim()", json!("bcaabcx")),
        ("'abcabc'.indexOf('c') + 'abcabc'.lastIndexOf('c')", json!(7)),
        ("'aaa'.replace('a', 'b', 2) + ['x', 'y'].join('-') + 'abc'.reverse()", json!("bbax-ycba")),
        ("'abc123'.find('[0-9]+') + string('a1b2'.findAll('[0-9]').size())", json!("1232")),
        ("[1, 2, 3].isSorted() && [3, 1].min() == 1 && [3, 1].sum() == 4 && [1, 2].indexOf(2) == 1", json!(true)),
        (
            "[3, 1, 2].sort() == [1, 2, 3] && [1, 1, 2].distinct() == [1, 2] && [[1], [2]].flatten() == [1, 2]",
            json!(true),
        ),
        ("lists.range(3)", json!([0, 1, 2])),
        ("sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1]) && !sets.intersects([1], [2])", json!(true)),
        ("url('https://user@host:80/p a?x=1&x=2'.replace(' ', '')).getPort()", json!("80")),
        ("url('https://host:80/path?x=1').getHostname() + url('/p?q=1').getQuery()['q'][0]", json!("host1")),
        ("isURL('../rel') || isIP('1.2.3') || isCIDR('10.0.0.0/40')", json!(false)),
        ("ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && ip.isCanonical('::1')", json!(true)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", json!(true)),
        ("string(cidr('10.1.2.3/8').masked())", json!("10.0.0.0/8")),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi')) && quantity('50k').add(20).sign() == 1", json!(true)),
        ("quantity('200').asInteger() + quantity('1.5k').asInteger()", json!(1700)),
        (
            "semver('1.2.3').isLessThan(semver('2.0.0-alpha')) && !isSemver('1.2') && semver('v1.2', true).patch() == 0",
            json!(true),
        ),
        ("'%s is %d, %.2f, %x'.format(['a', 3, 1.0, 255])", json!("a is 3, 1.00, ff")),
        (
            "!format.dns1123Label().validate('ok').hasValue() && format.named('uuid').value().validate('x').hasValue()",
            json!(true),
        ),
        ("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c")),
        ("base64.encode(b'hi') + string(base64.decode('aGk='))", json!("aGk=hi")),
        ("math.greatest(1, 3, 2) + math.least([4, 2]) + math.abs(-1)", json!(6)),
        ("duration('1h30m').getMinutes() + timestamp('2024-02-29T01:02:03Z').getDate()", json!(119)),
        ("timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')", json!(true)),
        (
            "authorizer.requestResource.check('get').allowed() && !authorizer.group('').resource('pods').check('list').allowed()",
            json!(true),
        ),
        ("Object{spec: Object.spec{replicas: 2}}", json!({"spec": {"replicas": 2}})),
        ("[JSONPatch{op: 'add', path: '/a', value: 1}]", json!([{"op": "add", "path": "/a", "value": 1}])),
    ]);
}

#[test]
fn errors_say_what_and_where() {
    let object = json!({"spec": {}});
    for (source, said) in [
        ("object.spec.none", "no such key: none"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("[1][3]", "index out of bounds: 3"),
        ("unknown > 1", "undeclared reference to 'unknown' (in container '')"),
        ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("'a'.nothing()", "undeclared reference to 'nothing'"),
        ("'a'.startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("object.spec.", "Syntax error: mismatched input '<EOF>' expecting IDENTIFIER"),
        ("1 +", "ERROR: <input>:1:4: Syntax error"),
        ("'abc", "unterminated string"),
        ("Object{spec: Object.wrong{a: 1}}", "unexpected type name \"Object.wrong\", expected \"Object.spec\""),
        ("namespace == 1", "reserved identifier: namespace"),
        ("'a'.matches('(')", "error parsing regexp"),
        ("has(1)", "invalid argument to has() macro"),
    ] {
        let found = evaluate(source, &object).unwrap_err();
        assert!(found.contains(said), "{source}: {found}");
    }
    let shown = environment().compile("object.a ==\n nothing").unwrap_err().to_string();
    assert_eq!(shown, "ERROR: <input>:2:2: undeclared reference to 'nothing' (in container '')\n |  nothing\n | .^");
}

#[test]
fn cost_ends_what_would_not_end() {
    let big: Vec<i64> = (0..2000).collect();
    let object = json!({"l": big, "s": "a".repeat(100_000)});
    let out = evaluate("object.l.all(a, object.l.all(b, object.l.all(c, a + b + c >= 0)))", &object);
    assert!(out.unwrap_err().contains("cost limit exceeded"));
    let out = evaluate("object.s.replace('a', object.s).size()", &object);
    assert!(out.unwrap_err().contains("cost limit exceeded"));
    let program = environment().compile("object.l.all(a, a >= 0)").unwrap();
    let mut activation = Activation::new();
    activation.set("object", Val::json(&object));
    let budget = Budget::new(5_000);
    assert_eq!(program.evaluate(&activation, &budget).err(), Some(EvalError::Budget));
    // A megabyte of stack is enough for whatever compiles.
    let narrow = std::thread::Builder::new().stack_size(1 << 20).spawn(nested).unwrap();
    narrow.join().unwrap();
}

fn nested() {
    let object = json!({"l": [1]});
    for good in [
        format!("{}1{}", "(".repeat(78), ")".repeat(78)),
        format!("{}1", "1 + ".repeat(145)),
        format!("{}[1]{}", "[".repeat(70), "]".repeat(70)),
        format!("{}1{}", "string(".repeat(75), ")".repeat(75)),
        format!("{}true{}", "[1].all(x, ".repeat(70), ")".repeat(70)),
        format!("{}1", "true ? 1 : ".repeat(70)),
        format!("object{}", ".l".repeat(140)),
    ] {
        let out = evaluate(&good, &object);
        assert!(out.is_ok() || out.as_ref().is_err_and(|e| e.contains("no such key")), "{good}: {out:?}");
    }
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(environment().compile(&deep).unwrap_err().to_string().contains("recursion limit"));
    let long = "1 + ".repeat(3000) + "1";
    assert!(environment().compile(&long).unwrap_err().to_string().contains("recursion limit"));
    assert!(environment().compile(&format!("{}true", "true || ".repeat(3000))).is_ok());
}

#[test]
fn schemas_give_types_and_costs() {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "properties": {
        "replicas": {"type": "integer"}, "namespace": {"type": "string"}, "at": {"type": "string", "format": "date-time"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "small": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10}}}}}});
    let shape = of_schema(&schema, true).unwrap();
    let environment = Environment::new([("self", shape.ty())]);
    let fails = |source: &str| environment.compile(source).unwrap_err().to_string();
    assert!(fails("self.spec.repplicas > 1").contains("undefined field 'repplicas'"));
    assert!(fails("self.spec.replicas == 'a'").contains("no matching overload for '_==_' applied to '(int, string)'"));
    assert!(fails("self.metadata.labels.size() > 0").contains("undefined field 'labels'"));
    let value = json!({"metadata": {"name": "x"}, "spec": {"replicas": 1, "namespace": "n", "at": "2024-01-01T00:00:00Z", "set": ["a", "b"]}});
    for source in [
        "self.spec.__namespace__ == 'n' && self.metadata.name == 'x'",
        "self.spec.at < timestamp('2025-01-01T00:00:00Z')",
        "self.spec.set == ['b', 'a'] && (self.spec.set + ['a']).size() == 2",
        "!has(self.spec.small)",
    ] {
        let program = environment.compile(source).unwrap();
        let mut activation = Activation::new();
        activation.set("self", Val::shaped(&value, &shape));
        let out = program.evaluate(&activation, &Budget::new(REQUEST_BUDGET));
        assert!(matches!(out, Ok(Val::Bool(true))), "{source}: {out:?}");
    }
    let estimate = Estimate::new(&[("self", shape.clone())]);
    let cost = |source: &str| estimate.of(&environment.compile(source).unwrap());
    assert!(cost("self.spec.small.all(s, s.contains('x'))") < 1_000);
    assert!(cost("self.spec.set.all(s, self.spec.set.all(t, s != t))") > 10_000_000);
    assert!(cost("self.spec.replicas > 1") < 10);
}

proptest! {
    /// No text makes compiling panic or hang, and whatever compiles runs to an end.
    #[test]
    fn any_text_is_survived(source in "[a-z0-9(){}\\[\\].,?:!&|+*/%<>='\"\\\\ -]{0,60}") {
        let _ = evaluate(&source, &json!({"a": [1, {"b": "c"}]}));
    }

    /// Neither does text made of the language's own words.
    #[test]
    fn any_words_are_survived(words in proptest::collection::vec(prop_oneof![
        Just("object"), Just("."), Just("a"), Just("all"), Just("("), Just(")"), Just("x"), Just(","), Just("1"), Just("'s'"),
        Just("["), Just("]"), Just("?"), Just(":"), Just("=="), Just("&&"), Just("map"), Just("has"), Just("size"), Just("in"),
        Just("{"), Just("}"), Just("-"), Just("optional.of"), Just("format"), Just("matches"),
    ], 0..25)) {
        let _ = evaluate(&words.join(" "), &json!({"a": [1, {"b": "c"}]}));
        let _ = evaluate(&words.concat(), &json!({"a": {"x": "s"}}));
    }
}

/// Rules of the kinds that well-known definitions state must compile, hold where they should, and not be called too costly.
#[test]
fn rules_as_they_are_written() {
    let schema = json!({"type": "object", "properties": {
        "listeners": {"type": "array", "maxItems": 64, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name", "port", "protocol"], "properties": {
            "name": {"type": "string", "maxLength": 253}, "port": {"type": "integer"}, "protocol": {"type": "string", "maxLength": 255}, "hostname": {"type": "string", "maxLength": 253},
            "tls": {"type": "object", "properties": {"mode": {"type": "string", "enum": ["Terminate", "Passthrough"]}, "certificateRefs": {"type": "array", "maxItems": 64, "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}}}}},
        "labels": {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 4096}},
        "port": {"x-kubernetes-int-or-string": true}, "min": {"type": "integer"}, "max": {"type": "integer"}, "type": {"type": "string"},
        "a": {"type": "object", "properties": {"x": {"type": "string"}}}, "b": {"type": "object", "properties": {"x": {"type": "string"}}},
        "timeout": {"type": "string", "format": "duration"}, "path": {"type": "string", "maxLength": 1024}, "quantity": {"type": "string", "maxLength": 20}}});
    let shape = of_schema(&schema, false).unwrap();
    let environment = Environment::new([("self", shape.ty()), ("oldSelf", shape.ty())]);
    let estimate = Estimate::new(&[("self", shape.clone()), ("oldSelf", shape.clone())]);
    let value = json!({"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}, {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "a.example.com", "tls": {"mode": "Terminate", "certificateRefs": [{"name": "c"}]}}],
        "labels": {"app": "web", "example.com/tier": "front"}, "port": "http", "min": 1, "max": 3, "type": "A", "a": {"x": "y"}, "timeout": "5s", "path": "/a/b", "quantity": "1Gi"});
    for source in [
        "self.listeners.all(l, l.protocol in ['HTTP', 'TCP', 'UDP'] ? !has(l.tls) : true)",
        "self.listeners.all(l, (l.protocol == 'HTTPS' && has(l.tls)) ? (l.tls.mode == '' || l.tls.mode == 'Terminate') : true)",
        "self.listeners.all(l1, self.listeners.exists_one(l2, l1.name == l2.name))",
        "self.listeners.all(l1, self.listeners.exists_one(l2, l1.port == l2.port && l1.protocol == l2.protocol && (has(l1.hostname) && has(l2.hostname) ? l1.hostname == l2.hostname : !has(l1.hostname) && !has(l2.hostname))))",
        "!has(self.labels) || self.labels.all(k, k.size() <= 253 && self.labels[k] != '')",
        "self.labels.all(key, key.matches('^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?(/[A-Za-z0-9._-]+)?$'))",
        "type(self.port) == int ? self.port > 0 : self.port.size() > 0",
        "(has(self.a) ? 1 : 0) + (has(self.b) ? 1 : 0) == 1",
        "self.type == 'A' ? has(self.a) : !has(self.a)",
        "has(self.min) && has(self.max) ? self.min <= self.max : true",
        "!has(self.timeout) || self.timeout >= duration('0s')",
        "self.path.startsWith('/') && !self.path.contains('//') && !self.path.endsWith('/..')",
        r"self.path.matches('^(?:[A-Za-z0-9/\\-._~!$&\'()*+,;=:]|[%][0-9a-fA-F]{2})+$')",
        "self.type == oldSelf.type",
        "[has(self.a), has(self.b)].filter(x, x == true).size() == 1",
        "self.listeners.filter(l, l.port == 80).size() <= 1",
        "isQuantity(self.quantity) && quantity(self.quantity).isLessThan(quantity('2Gi'))",
        "oldSelf.listeners.all(o, self.listeners.exists(n, n.name == o.name))",
        "self.listeners.map(l, l.name).all(n, n.size() > 0)",
        "self.?a.?x.orValue('y') == 'y'",
    ] {
        let program = environment.compile(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let cost = estimate.of(&program);
        assert!(cost < 10_000_000, "{source} is estimated at {cost}");
        let mut activation = Activation::new();
        activation.set("self", Val::shaped(&value, &shape)).set("oldSelf", Val::shaped(&value, &shape));
        let out = program.evaluate(&activation, &Budget::new(REQUEST_BUDGET));
        assert!(matches!(out, Ok(Val::Bool(true))), "{source}: {out:?}");
    }
}
