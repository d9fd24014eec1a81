//! Expressions of strangers: whatever they say, compiling and running them ends soon. See the fuzz targets of `crates/api`.
#![allow(clippy::unwrap_used)]

#[path = "../../api/tests/fuzz/mutate.rs"]
mod mutate;

use caravel_cel::{Activation, Budget, Environment, Ty, Val};
use mutate::{Fuzz, utf8};
use serde_json::json;
use std::time::Instant;

const CORPUS: [&[u8]; 6] = [
    b"object.spec.list.all(x, x > 0 && x in [1, 2u, 3.5]) || has(object.spec.name)",
    b"object.metadata.?labels['a'].orValue('b').matches('^[a-z]+$') ? \"x\" : r'\\y'",
    b"quantity('1.5Gi').isGreaterThan(quantity('1M')) && duration('1h') < duration('90m') && !isIP('::1')",
    b"{'a': [1, -9223372036854775808], 'b': {}}.map(k, k + 'z').exists_one(v, v == 'az')",
    b"timestamp('2020-01-01T00:00:00Z').getFullYear('Europe/Berlin') % 7 == size('\xc3\xa9') - 1",
    b"url('https://a:1/b?c=d').getQuery() == {} && 'a,b'.split(',').join('-').lowerAscii().charAt(0) == 'a'",
];

#[test]
fn expressions() {
    let environment = Environment { messages: true, ..Environment::new([("object", Ty::Dyn)]) };
    let object = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"list": [1, 2, 3], "name": "n"}});
    Fuzz::new("cel", &CORPUS, 1).run(4000, |bytes| {
        let Some(source) = utf8(bytes) else { return };
        let Ok(program) = environment.compile(source) else { return };
        let mut activation = Activation::new();
        activation.set("object", Val::json(&object));
        let _ = program.evaluate(&activation, &Budget::new(100_000)).map(|v| v.to_json());
    });
}

/// What doubles, nests and repeats is stopped by its cost, not by the end of memory or stack.
#[test]
fn cost_bombs() {
    let environment = Environment::new([("object", Ty::Dyn)]);
    let hundred = format!("[{}]", vec!["1"; 100].join(","));
    let mut nested = "true".to_owned();
    for variable in ["a", "b", "c", "d", "e", "f"] {
        nested = format!("{hundred}.all({variable}, {nested})");
    }
    let mut doubled = "'aaaaaaaaaaaaaaaa'".to_owned();
    for _ in 0..12 {
        doubled = format!("[{doubled}].map(x, x + x + x + x)[0]");
    }
    let bombs = [
        nested,
        doubled,
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        "!".repeat(100_000) + "true",
        vec!["1"; 50_000].join(" + "),
        format!("{}.map(x, {hundred}.map(y, {hundred}.map(z, '{}')))", hundred, "x".repeat(100)),
        format!("'{}'.matches('((a*)*)*b')", "a".repeat(20_000)),
        "'a'.replace('', 'bbbbbbbbbb').replace('', 'cccccccccc').replace('', 'dddddddddd').replace('', 'eeeeeeeeee').replace('', 'ffffffffff').replace('', 'gggggggggg')".to_owned(),
    ];
    for source in bombs {
        let start = Instant::now();
        if let Ok(program) = environment.compile(&source) {
            let activation = Activation::new();
            let budget = Budget::new(1_000_000);
            let value = program.evaluate(&activation, &budget).ok().and_then(|v| v.to_json());
            assert!(value.is_none_or(|v| v.to_string().len() < 64 << 20), "{source:.80}");
        }
        assert!(start.elapsed().as_secs() < 20, "{source:.80} took {:?}", start.elapsed());
    }
}
