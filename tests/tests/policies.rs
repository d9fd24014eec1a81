//! Rules in CEL: admission policies that validate and mutate, and the rules of custom resources.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Wire};
use serde_json::{Value, json};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// A namespace that policies select by its label, and the policies of a test in it.
struct Policies {
    ns: Namespace,
    made: std::cell::RefCell<Vec<String>>,
}

impl Policies {
    fn new(prefix: &str) -> Policies {
        let ns = Namespace::new(prefix);
        let (code, said) = ns
            .wire()
            .merge(&format!("/api/v1/namespaces/{}", ns.name), &json!({"metadata": {"labels": {&ns.name: "true"}}}));
        assert_eq!(code, 200, "{said}");
        Policies { ns, made: Default::default() }
    }

    fn wire(&self) -> &Wire {
        self.ns.wire()
    }

    fn name(&self, what: &str) -> String {
        format!("{}.{what}.example.com", self.ns.name)
    }

    fn rules(&self, groups: &[&str], resources: &[&str]) -> Value {
        json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": groups, "apiVersions": ["v1"], "resources": resources}],
            "namespaceSelector": {"matchLabels": {&self.ns.name: "true"}}})
    }

    fn post(&self, plural: &str, object: &Value) -> (u16, Value) {
        let (code, said) = self.wire().post(&format!("{ADMISSION}/{plural}"), object);
        if code == 201 {
            self.made.borrow_mut().push(format!("{ADMISSION}/{plural}/{}", said["metadata"]["name"].as_str().unwrap()));
        }
        (code, said)
    }

    /// A validating policy over these resources, and its binding.
    fn validating(&self, what: &str, constraints: Value, mut spec: Value, mut binding: Value) {
        spec["matchConstraints"] = constraints;
        let (code, said) =
            self.post("validatingadmissionpolicies", &json!({"metadata": {"name": self.name(what)}, "spec": spec}));
        assert_eq!(code, 201, "{said}");
        binding["policyName"] = json!(self.name(what));
        if binding.get("validationActions").is_none() {
            binding["validationActions"] = json!(["Deny"]);
        }
        let (code, said) = self.post(
            "validatingadmissionpolicybindings",
            &json!({"metadata": {"name": self.name(what)}, "spec": binding}),
        );
        assert_eq!(code, 201, "{said}");
    }

    fn mutating(&self, what: &str, mutations: Value, mut more: Value) {
        more["mutations"] = mutations;
        more["reinvocationPolicy"] = json!("Never");
        if more.get("matchConstraints").is_none() {
            more["matchConstraints"] = self.rules(&["apps"], &["deployments"]);
        }
        let (code, said) =
            self.post("mutatingadmissionpolicies", &json!({"metadata": {"name": self.name(what)}, "spec": more}));
        assert_eq!(code, 201, "{said}");
        let binding = json!({"metadata": {"name": self.name(what)}, "spec": {"policyName": self.name(what)}});
        let (code, said) = self.post("mutatingadmissionpolicybindings", &binding);
        assert_eq!(code, 201, "{said}");
    }

    fn deployments(&self) -> String {
        format!("/apis/apps/v1/namespaces/{}/deployments", self.ns.name)
    }

    fn config_maps(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.ns.name)
    }

    /// Dry runs until the policy shows: what it says when it refuses.
    fn refused(&self, path: &str, object: &Value) -> Value {
        let path = format!("{path}?dryRun=All");
        self.ns.eventually("the policy holds", || match self.wire().post(&path, object) {
            (201, _) => Err("it was let through".to_owned()),
            (_, said) => Ok(said),
        })
    }
}

impl Drop for Policies {
    fn drop(&mut self) {
        for path in self.made.borrow().iter() {
            self.ns.wire().delete(path);
        }
    }
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "test"}},
        "template": {"metadata": {"labels": {"app": "test"}}, "spec": {"terminationGracePeriodSeconds": 0, "nodeSelector": {"none": "such"}, "containers": [{"name": "c", "image": "test/busybox:1"}]}}}})
}

#[test]
fn a_deployment_is_validated() {
    let p = Policies::new("vap");
    let spec = json!({"validations": [
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": format!("namespaceObject.metadata.name == '{}'", p.ns.name), "message": "Internal error! Other namespace should not be allowed."}]});
    p.validating("replicas", p.rules(&["apps"], &["deployments"]), spec, json!({}));
    let said = p.refused(&p.deployments(), &deployment("marker", 1));
    assert_eq!((said["code"].as_u64(), said["reason"].as_str()), (Some(422), Some("Invalid")), "{said}");
    let wanted = format!(
        "deployments.apps \"marker\" is forbidden: ValidatingAdmissionPolicy '{0}' with binding '{0}' denied request: wants replicas > 1, got 1",
        p.name("replicas")
    );
    assert_eq!(said["message"], wanted);
    assert_eq!(said["details"]["causes"][0]["message"].as_str().unwrap(), wanted.split("forbidden: ").nth(1).unwrap());
    let (code, said) = p.wire().post(&p.deployments(), &deployment("two", 2));
    assert_eq!(code, 201, "{said}");
    // Updates by every door.
    let two = format!("{}/two", p.deployments());
    assert_eq!(p.wire().merge(&two, &json!({"spec": {"replicas": 1}})).0, 422);
    // Elsewhere nothing happens.
    let other = Namespace::new("elsewhere");
    let (code, said) =
        other.wire().post(&format!("/apis/apps/v1/namespaces/{}/deployments", other.name), &deployment("one", 1));
    assert_eq!(code, 201, "{said}");
}

#[test]
fn expressions_refer_to_variables() {
    let p = Policies::new("vars");
    let spec = json!({
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"}, {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}],
        "validations": [{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}]});
    p.validating("vars", p.rules(&["apps"], &["deployments"]), spec, json!({}));
    let said = p.refused(&p.deployments(), &deployment("one", 1));
    assert!(said["message"].as_str().unwrap().contains("failed expression: variables.replicas > 1"), "{said}");
    let (code, said) = p.wire().post(&p.deployments(), &deployment("two", 2));
    assert_eq!(code, 422, "{said}");
    assert!(said["message"].as_str().unwrap().contains("failed expression: variables.oddReplicas"), "{said}");
    let (code, said) = p.wire().post(&p.deployments(), &deployment("three", 3));
    assert_eq!(code, 201, "{said}");
}

/// Parameters by name and by selector, of a built-in kind; what is missing is denied or allowed as the binding says.
#[test]
fn policies_take_parameters() {
    let p = Policies::new("params");
    let maps = p.config_maps();
    let create = |name: &str, most: &str| {
        let (code, said) = p
            .wire()
            .post(&maps, &json!({"metadata": {"name": name, "labels": {"limit": "yes"}}, "data": {"most": most}}));
        assert_eq!(code, 201, "{said}");
    };
    create("limits", "3");
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.most)", "messageExpression": "'at most ' + params.data.most", "reason": "Forbidden"}]});
    let binding = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    p.validating("params", p.rules(&["apps"], &["deployments"]), spec, binding);
    let said = p.refused(&p.deployments(), &deployment("five", 5));
    assert_eq!((said["code"].as_u64(), said["reason"].as_str()), (Some(403), Some("Forbidden")), "{said}");
    assert!(said["message"].as_str().unwrap().ends_with("denied request: at most 3"), "{said}");
    assert_eq!(p.wire().post(&format!("{}?dryRun=All", p.deployments()), &deployment("three", 3)).0, 201);
    p.wire().merge(&format!("{maps}/limits"), &json!({"data": {"most": "9"}}));
    assert_eq!(
        p.wire().post(&format!("{}?dryRun=All", p.deployments()), &deployment("five", 5)).0,
        201,
        "parameters are read fresh"
    );
    p.wire().delete(&format!("{maps}/limits"));
    let (code, said) = p.wire().post(&p.deployments(), &deployment("three", 3));
    assert!(code == 422 && said["message"].as_str().unwrap().contains("no params found"), "{said}");
    // By selector, each of the found ones counts.
    let path = format!("{ADMISSION}/validatingadmissionpolicybindings/{}", p.name("params"));
    let next = json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"limit": "yes"}}, "parameterNotFoundAction": "Allow"}}});
    let (code, said) = p.wire().merge(&path, &next);
    assert_eq!(code, 200, "{said}");
    p.ns.eventually("nothing is demanded", || {
        match p.wire().post(&format!("{}?dryRun=All", p.deployments()), &deployment("x", 7)) {
            (201, _) => Ok(()),
            (_, said) => Err(said.to_string()),
        }
    });
    create("wide", "10");
    create("narrow", "2");
    let said = p.refused(&p.deployments(), &deployment("x", 7));
    assert!(said["message"].as_str().unwrap().ends_with("at most 2"), "{said}");
}

/// Warn and Audit let through; conditions, failure policy and exclusions narrow.
#[test]
fn actions_conditions_and_failures() {
    let p = Policies::new("actions");
    let maps = p.config_maps();
    let map = |name: &str, value: &str| json!({"metadata": {"name": name}, "data": {"k": value}});
    let rules = p.rules(&[""], &["configmaps"]);
    let spec = json!({"failurePolicy": "Fail", "matchConditions": [{"name": "not-system", "expression": "!request.userInfo.username.startsWith('system:node')"}, {"name": "has-k", "expression": "has(object.data) && has(object.data.k)"}],
        "validations": [{"expression": "object.data.k != 'bad'", "message": "k is bad"}, {"expression": "object.data.k != 'error' || object.data.none == 'x'"}]});
    p.validating("deny", rules.clone(), spec, json!({}));
    let said = p.refused(&maps, &map("a", "bad"));
    assert!(said["message"].as_str().unwrap().ends_with("denied request: k is bad"), "{said}");
    let (code, said) = p.wire().post(&maps, &map("b", "error"));
    assert_eq!(code, 422, "{said}");
    assert!(said["message"].as_str().unwrap().contains("resulted in error: no such key: none"), "{said}");
    assert_eq!(p.wire().post(&maps, &json!({"metadata": {"name": "no-data"}})).0, 201);
    // The error is ignored when the policy says so.
    let path = format!("{ADMISSION}/validatingadmissionpolicies/{}", p.name("deny"));
    assert_eq!(p.wire().merge(&path, &json!({"spec": {"failurePolicy": "Ignore"}})).0, 200);
    p.ns.eventually("errors are ignored", || match p.wire().post(&format!("{maps}?dryRun=All"), &map("b", "error")) {
        (201, _) => Ok(()),
        (_, said) => Err(said.to_string()),
    });
    // A warning is a header: kubectl shows it.
    let warn = json!({"validations": [{"expression": "object.data.k != 'odd'", "message": "k is odd"}]});
    p.validating("warn", rules, warn, json!({"validationActions": ["Warn", "Audit"]}));
    p.ns.eventually("the warning", || {
        let mut command = p.ns.command(&["create", "configmap", "odd", "--from-literal=k=odd", "--dry-run=server"]);
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let wanted = format!(
            "Warning: Validation failed for ValidatingAdmissionPolicy '{0}' with binding '{0}': k is odd",
            p.name("warn")
        );
        if out.status.success() && said.contains(&wanted) { Ok(()) } else { Err(said) }
    });
}

/// An expression may ask what the user may do.
#[test]
fn policies_ask_the_authorizer() {
    let p = Policies::new("authz");
    let spec = json!({"validations": [{"expression": "object.metadata.name != 'asked' || (authorizer.requestResource.check('create').allowed() && !authorizer.serviceAccount('default', 'default').group('').resource('secrets').namespace('kube-system').check('get').allowed() && request.operation == 'CREATE'  && request.kind.kind == 'ConfigMap')"},
        {"expression": "object.metadata.name != 'asked' || authorizer.path('/healthz').check('get').allowed()"},
        {"expression": "object.metadata.name != 'refused' || authorizer.serviceAccount('default', 'default').group('').resource('secrets').check('get').allowed()"}]});
    p.validating("authz", p.rules(&[""], &["configmaps"]), spec, json!({}));
    p.refused(&p.config_maps(), &json!({"metadata": {"name": "refused"}}));
    let (code, said) = p.wire().post(&p.config_maps(), &json!({"metadata": {"name": "asked"}}));
    assert_eq!(code, 201, "{said}");
}

/// Expressions must compile, and yield what is wanted; webhooks' conditions, too.
#[test]
fn expressions_are_checked_when_written() {
    let p = Policies::new("compile");
    let policy = |validation: Value| json!({"metadata": {"name": p.name("bad")}, "spec": {"matchConstraints": p.rules(&["apps"], &["deployments"]), "validations": [validation]}});
    for (validation, place, said) in [
        (
            json!({"expression": "object.spec. > 1"}),
            "spec.validations[0].expression",
            "compilation failed: ERROR: <input>:1:14: Syntax error",
        ),
        (json!({"expression": "unknown > 1"}), "spec.validations[0].expression", "undeclared reference to 'unknown'"),
        (json!({"expression": "1 + 1"}), "spec.validations[0].expression", "must evaluate to bool"),
        (
            json!({"expression": "request.userInfo.nothing == 'x'"}),
            "spec.validations[0].expression",
            "undefined field 'nothing'",
        ),
        (
            json!({"expression": "true", "messageExpression": "1"}),
            "spec.validations[0].messageExpression",
            "must evaluate to string",
        ),
        (json!({"expression": "params.x == 1"}), "spec.validations[0].expression", "undeclared reference to 'params'"),
        (json!({"expression": "'a'.matches('(')"}), "spec.validations[0].expression", "error parsing regexp"),
    ] {
        let (code, status) = p.post("validatingadmissionpolicies", &policy(validation.clone()));
        assert_eq!(code, 422, "{validation}: {status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["field"], place, "{status}");
        assert!(cause["message"].as_str().unwrap().contains(said), "{validation}: {status}");
    }
    let hook = json!({"metadata": {"name": p.name("hook")}, "webhooks": [{"name": p.name("hook"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/none"}, "matchConditions": [{"name": "bad", "expression": "... [] bad expression"}]}]});
    for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        let (code, said) = p.post(plural, &hook);
        assert!(code == 422 && said["message"].as_str().unwrap().contains("compilation failed"), "{said}");
    }
}

/// What a policy would do wrong with the kinds it is for is in its status.
#[test]
fn policies_are_type_checked() {
    let p = Policies::new("types");
    let spec = json!({"validations": [{"expression": "object.foo < object.bar"}, {"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.replicas > 1"}]});
    p.validating("types", p.rules(&["apps"], &["deployments"]), spec, json!({}));
    let path = format!("{ADMISSION}/validatingadmissionpolicies/{}", p.name("types"));
    let checked = p.ns.eventually("the check", || match p.wire().get(&path).1 {
        done if done["status"]["observedGeneration"] == done["metadata"]["generation"] => Ok(done),
        other => Err(other.to_string()),
    });
    let warnings = checked["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let said = warnings[0]["warning"].as_str().unwrap();
    assert!(said.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n | object.foo < object.bar\n | ......^"), "{said}");
    assert!(said.contains("undefined field 'bar'"), "{said}");
    assert!(
        warnings[1]["warning"].as_str().unwrap().contains("no matching overload for '_>_' applied to '(int, string)'")
    );
}

#[test]
fn a_deployment_is_mutated() {
    let p = Policies::new("map");
    let expression = "Object{spec: Object.spec{replicas: object.spec.replicas + 1, template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'added', image: 'test/busybox:1'}]}}}}";
    p.mutating(
        "apply",
        json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]),
        json!({}),
    );
    let path = format!("{}?dryRun=All", p.deployments());
    let made = p.ns.eventually("the mutation", || match p.wire().post(&path, &deployment("a", 2)) {
        (201, made) if made["spec"]["replicas"] == 3 => Ok(made),
        (_, other) => Err(other.to_string()),
    });
    let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "added"], "lists with keys are merged by them");
    assert_eq!(containers[1]["imagePullPolicy"], "IfNotPresent", "what was added has its defaults");
}

#[test]
fn a_deployment_gets_annotations() {
    let p = Policies::new("annotate");
    let apply = "Object{metadata: Object.metadata{annotations: {\"mutated-by\": \"admission-policy\"}}}";
    let patch = "[JSONPatch{op: 'test', path: '/spec/replicas', value: 1}, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/from'), value: variables.who}]";
    let more = json!({"variables": [{"name": "who", "expression": "request.userInfo.username"}], "matchConditions": [{"name": "wanted", "expression": "object.metadata.name != 'left-alone'"}]});
    p.mutating("annotate", json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}}, {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]), more);
    let path = format!("{}?dryRun=All", p.deployments());
    p.ns.eventually("the mutation", || match p.wire().post(&path, &deployment("a", 1)) {
        (201, made) if made["metadata"]["annotations"]["mutated-by"] == "admission-policy" => Ok(()),
        (_, other) => Err(other.to_string()),
    });
    let (code, made) = p.wire().post(&p.deployments(), &deployment("real", 1));
    assert_eq!(code, 201, "{made}");
    let stored = p.wire().get(&format!("{}/real", p.deployments())).1;
    assert_eq!(stored["metadata"]["annotations"]["mutated-by"], "admission-policy");
    assert_eq!(
        stored["metadata"]["annotations"]["example.com/from"],
        made["metadata"]["annotations"]["example.com/from"]
    );
    assert!(stored["metadata"]["annotations"]["example.com/from"].is_string(), "{stored}");
    let (code, left) = p.wire().post(&path, &deployment("left-alone", 1));
    assert!(code == 201 && left["metadata"].get("annotations").is_none(), "{left}");
    // The patch's own test fails: so does the request.
    let (code, said) = p.wire().post(&path, &deployment("b", 2));
    assert!(code == 403 && said["message"].as_str().unwrap().contains(&p.name("annotate")), "{said}");
}

/// A definition with rules, and its instances.
struct Ruled {
    ns: Namespace,
    group: String,
}

impl Ruled {
    fn definition(group: &str, spec: &Value) -> Value {
        json!({"metadata": {"name": format!("ruleds.{group}")}, "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "ruleds", "singular": "ruled", "kind": "Ruled", "listKind": "RuledList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {"type": "object", "properties": {"n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 10"}]}}}}}}}]}})
    }

    fn new(prefix: &str, spec: Value) -> Ruled {
        let ns = Namespace::new(prefix);
        let group = format!("{}.example.com", ns.name);
        let (code, said) = ns.wire().post(CRDS, &Self::definition(&group, &spec));
        assert_eq!(code, 201, "{said}");
        let ruled = Ruled { ns, group };
        ruled.ns.eventually("the kind is served", || match ruled.ns.wire().get(&ruled.all()) {
            (200, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        });
        ruled
    }

    fn all(&self) -> String {
        format!("/apis/{}/v1/namespaces/{}/ruleds", self.group, self.ns.name)
    }

    fn create(&self, name: &str, spec: Value) -> (u16, Value) {
        let object = json!({"apiVersion": format!("{}/v1", self.group), "kind": "Ruled", "metadata": {"name": name}, "spec": spec});
        self.ns.wire().post(&self.all(), &object)
    }
}

impl Drop for Ruled {
    fn drop(&mut self) {
        self.ns.wire().delete(&format!("{CRDS}/ruleds.{}", self.group));
    }
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[test]
fn custom_resources_keep_their_rules() {
    let ruled = Ruled::new(
        "rules",
        json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is over max ' + string(self.max)", "fieldPath": ".min"},
            {"rule": "!has(self.fixed) || self.fixed == oldSelf.fixed", "message": "fixed may not change", "reason": "FieldValueForbidden"}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "fixed": {"type": "string"},
            "names": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self.startsWith('n')"}]}},
            "once": {"type": "string", "x-kubernetes-validations": [{"rule": "!oldSelf.hasValue() || oldSelf.value() == self", "optionalOldSelf": true, "message": "once is once"}]},
            "ports": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name"],
                "properties": {"name": {"type": "string", "maxLength": 9}, "port": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "ports only grow"}]}}}}}}),
    );
    let wire = ruled.ns.wire();
    let (code, said) = ruled.create("wrong", json!({"min": 5, "max": 3, "names": ["n1", "x2"]}));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
    let causes = said["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2, "{said}");
    assert_eq!(
        causes[0],
        json!({"reason": "FieldValueInvalid", "field": "spec.min", "message": "Invalid value: \"object\": min 5 is over max 3"})
    );
    assert_eq!(
        causes[1],
        json!({"reason": "FieldValueInvalid", "field": "spec.names[1]", "message": "Invalid value: \"string\": failed rule: self.startsWith('n')"})
    );
    let (code, said) = ruled.create("missing", json!({"min": 5}));
    assert!(code == 422 && said["message"].as_str().unwrap().contains("no such key: max evaluating rule"), "{said}");
    let (code, said) = ruled.create("a", json!({"min": 1, "max": 3, "fixed": "x", "once": "o", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 5}]}));
    assert_eq!(code, 201, "{said}");
    let a = format!("{}/a", ruled.all());
    let (code, said) = wire.merge(&a, &json!({"spec": {"fixed": "y"}}));
    assert_eq!(code, 422, "{said}");
    assert_eq!(
        said["details"]["causes"][0],
        json!({"reason": "FieldValueForbidden", "field": "spec", "message": "Forbidden: fixed may not change"})
    );
    let (code, said) = wire.merge(&a, &json!({"spec": {"once": "p"}}));
    assert!(code == 422 && said["message"].as_str().unwrap().contains("once is once"), "{said}");
    // Elements are known by their keys, wherever they stand.
    let (code, said) =
        wire.merge(&a, &json!({"spec": {"ports": [{"name": "b", "port": 4}, {"name": "a", "port": 2}]}}));
    assert_eq!(said["details"]["causes"][0]["field"], "spec.ports[0].port", "{code} {said}");
    assert_eq!(
        wire.merge(&a, &json!({"spec": {"ports": [{"name": "b", "port": 6}, {"name": "new", "port": 1}]}})).0,
        200
    );
    let (code, said) = wire.merge(&format!("{a}/status"), &json!({"status": {"n": 11}}));
    assert!(code == 422 && said["details"]["causes"][0]["field"] == "status.n", "{said}");
    assert_eq!(wire.merge(&format!("{a}/status"), &json!({"status": {"n": 9}})).0, 200);
}

/// What was stored before a rule came may stay, but not be changed to something that is still wrong.
#[test]
fn old_values_outlive_new_rules() {
    let spec = |rules: Value| json!({"type": "object", "properties": {"color": {"type": "string", "x-kubernetes-validations": rules}, "note": {"type": "string"}}});
    let ruled = Ruled::new("ratchet", spec(json!([])));
    let wire = ruled.ns.wire();
    assert_eq!(ruled.create("a", json!({"color": "red"})).0, 201);
    let path = format!("{CRDS}/ruleds.{}", ruled.group);
    let (_, mut definition) = wire.get(&path);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        spec(json!([{"rule": "self == 'blue'", "message": "only blue"}]));
    let (code, said) = wire.put(&path, &definition);
    assert_eq!(code, 200, "{said}");
    ruled.ns.eventually("the rule", || match ruled.create("b", json!({"color": "red"})) {
        (422, _) => Ok(()),
        (_, said) => {
            wire.delete(&format!("{}/b", ruled.all()));
            Err(said.to_string())
        }
    });
    let a = format!("{}/a", ruled.all());
    let (code, said) = wire.merge(&a, &json!({"spec": {"note": "x"}}));
    assert_eq!(code, 200, "{said}");
    let (code, said) = wire.merge(&a, &json!({"spec": {"color": "green"}}));
    assert!(code == 422 && said["message"].as_str().unwrap().contains("only blue"), "{said}");
}

#[test]
fn rules_of_definitions_are_checked() {
    let ns = Namespace::new("badrules");
    let group = format!("{}.example.com", ns.name);
    let rule = |rule: Value| {
        json!({"type": "object", "x-kubernetes-validations": [rule], "properties": {"n": {"type": "integer"},
        "list": {"type": "array", "items": {"type": "string"}}}})
    };
    let list = |items: Value| json!({"type": "object", "properties": {"list": {"type": "array", "items": items}}});
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    for (spec, place, said) in [
        (rule(json!({"rule": "self.m > 1"})), format!("{at}.rule"), "undefined field 'm'"),
        (rule(json!({"rule": "self.n"})), format!("{at}.rule"), "must evaluate to bool"),
        (rule(json!({"rule": "self.n >"})), format!("{at}.rule"), "compilation failed"),
        (
            rule(json!({"rule": "self.n > 'a'"})),
            format!("{at}.rule"),
            "found no matching overload for '_>_' applied to '(int, string)'",
        ),
        (
            rule(json!({"rule": "self.n > 1", "messageExpression": "self.n"})),
            format!("{at}.messageExpression"),
            "must evaluate to string",
        ),
        (rule(json!({"rule": "self.n > 1", "reason": "Whim"})), format!("{at}.reason"), "Unsupported value"),
        (
            rule(json!({"rule": "self.n > 1", "fieldPath": ".none"})),
            format!("{at}.fieldPath"),
            "does not refer to a valid field",
        ),
        (
            rule(json!({"rule": "self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))"})),
            format!("{at}.rule"),
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            list(json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]})),
            "spec.validation.openAPIV3Schema.properties[spec].properties[list].items.x-kubernetes-validations[0].rule"
                .into(),
            "oldSelf cannot be used on the uncorrelatable portion",
        ),
    ] {
        let (code, status) = ns.wire().post(CRDS, &Ruled::definition(&group, &spec));
        assert_eq!(code, 422, "{spec}: {status}");
        let causes = status["details"]["causes"].as_array().unwrap();
        let found = causes.iter().find(|c| c["field"] == place);
        let found = found.unwrap_or_else(|| panic!("{place}: {status}"));
        assert!(found["message"].as_str().unwrap().contains(said), "{said}: {status}");
    }
}
