//! What can be done at which path: the model that both document versions are rendered from.

use std::collections::BTreeMap;

use crate::kinds::{Gvk, Kind, KindTable, Subresource, Verbs, package};

/// A query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub ty: &'static str,
    pub description: &'static str,
}

const fn parameter(name: &'static str, ty: &'static str, description: &'static str) -> Parameter {
    Parameter { name, ty, description }
}

const PRETTY: Parameter = parameter("pretty", "string", "'true' asks for indented output.");
const DRY_RUN: Parameter = parameter("dryRun", "string", "'All' runs every stage of the request and stores nothing.");
const FIELD_MANAGER: Parameter =
    parameter("fieldManager", "string", "Name of the writer that the changed fields are recorded under.");
const FIELD_VALIDATION: Parameter = parameter(
    "fieldValidation",
    "string",
    "What unknown and duplicate fields cause: 'Ignore', 'Warn' (the default) or 'Strict'.",
);
const FORCE: Parameter =
    parameter("force", "boolean", "Apply patches only: take over fields that other managers have.");

const SELECTING: [Parameter; 10] = [
    parameter("continue", "string", "The token of the last page of a list that is read in pages."),
    parameter("fieldSelector", "string", "Selects objects by the values of fields."),
    parameter("labelSelector", "string", "Selects objects by their labels."),
    parameter("limit", "integer", "Most objects of a page."),
    parameter("resourceVersion", "string", "The version that a list or watch starts from."),
    parameter("resourceVersionMatch", "string", "How resourceVersion is applied to a list."),
    parameter("sendInitialEvents", "boolean", "A watch begins with the objects that exist and a bookmark after them."),
    parameter("timeoutSeconds", "integer", "Most seconds that a list or watch takes."),
    parameter("allowWatchBookmarks", "boolean", "A watch may send events of type BOOKMARK."),
    parameter("watch", "boolean", "Answers changes as they happen instead of a list."),
];

const DELETING: [Parameter; 5] = [
    DRY_RUN,
    parameter("gracePeriodSeconds", "integer", "Seconds before the object is gone; 0 is at once."),
    parameter(
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Deletes an object that cannot be read from the store, without regard for its finalizers.",
    ),
    parameter("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    parameter("propagationPolicy", "string", "What happens to dependents: 'Orphan', 'Background' or 'Foreground'."),
];

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Nothing,
    /// An object of the named type.
    Object(String),
    /// `DeleteOptions`, which may be left out.
    DeleteOptions,
    /// A patch; whether strategic merge patches are understood.
    Patch {
        strategic: bool,
    },
}

/// What a response carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An object of the named type.
    Object(String),
    /// A list of the named type, which can be watched.
    List(String),
    /// Text, or whatever a proxied server says.
    Text,
    Anything,
}

/// One method at one path.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub id: String,
    pub description: String,
    /// `x-kubernetes-action`.
    pub action: &'static str,
    pub gvk: Gvk,
    pub parameters: Vec<Parameter>,
    pub body: Body,
    pub answer: Answer,
    /// Success codes.
    pub codes: &'static [(&'static str, &'static str)],
}

/// The methods at one path.
#[derive(Clone, Debug, Default)]
pub(super) struct PathItem {
    /// Names of path parameters.
    pub path_parameters: Vec<&'static str>,
    /// Methods in lower case.
    pub operations: BTreeMap<&'static str, Operation>,
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const WRITTEN: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

/// The paths of a group version.
pub(super) fn paths(table: &KindTable, group: &str, version: &str) -> BTreeMap<String, PathItem> {
    let mut paths = BTreeMap::new();
    for kind in table.group_version(group, version) {
        Section { kind, paths: &mut paths }.add();
    }
    paths
}

/// The tag that operations of a group version carry: `apps_v1`, `rbacAuthorization_v1`.
pub(super) fn tag(group: &str, version: &str) -> String {
    let camel = camel_group(group);
    let mut letters = camel.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    let camel: String = first.into_iter().chain(letters).collect();
    format!("{camel}_{version}")
}

/// `rbac.authorization.k8s.io` is `RbacAuthorization`.
fn camel_group(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split(['.', '-']).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Type of a kind, as components are named: short for built-in types, full for custom resources.
pub(super) fn type_name(kind: &Kind) -> String {
    match kind.is_custom() {
        true => super::custom::component_name(kind, &kind.kind),
        false => builtin_name(&kind.gvk()),
    }
}

fn list_type_name(kind: &Kind) -> String {
    match kind.is_custom() {
        true => super::custom::component_name(kind, &kind.list_kind),
        false => builtin_name(&Gvk { kind: kind.list_kind.clone(), ..kind.gvk() }),
    }
}

fn builtin_name(gvk: &Gvk) -> String {
    format!("{}.{}.{}", package(&gvk.group), gvk.version, gvk.kind)
}

struct Section<'a> {
    kind: &'a Kind,
    paths: &'a mut BTreeMap<String, PathItem>,
}

impl Section<'_> {
    fn add(mut self) {
        let kind = self.kind;
        let root = match kind.group.is_empty() {
            true => format!("/api/{}", kind.version),
            false => format!("/apis/{}/{}", kind.group, kind.version),
        };
        let scoped = match kind.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
            false => format!("{root}/{}", kind.plural),
        };
        self.collection(&scoped);
        if kind.namespaced && kind.verbs.contains(Verbs::LIST) {
            let list = self.list("ForAllNamespaces");
            self.put(&format!("{root}/{}", kind.plural), &[], "get", list);
        }
        self.item(&format!("{scoped}/{{name}}"));
        for subresource in &kind.subresources {
            self.subresource(&format!("{scoped}/{{name}}/{}", subresource.name), subresource);
        }
    }

    fn put(&mut self, path: &str, path_parameters: &[&'static str], method: &'static str, operation: Operation) {
        let item = self.paths.entry(path.to_owned()).or_default();
        item.path_parameters = path_parameters.to_vec();
        item.operations.insert(method, operation);
    }

    /// `listAppsV1NamespacedDeployment` and its like.
    fn id(&self, verb: &str, middle: &str, tail: &str) -> String {
        let kind = self.kind;
        let scope = if kind.namespaced && tail != "ForAllNamespaces" { "Namespaced" } else { "" };
        format!("{verb}{}{}{middle}{scope}{}{tail}", camel_group(&kind.group), capital(&kind.version), kind.kind)
    }

    fn operation(&self, id: String, action: &'static str, description: String) -> Operation {
        Operation {
            id,
            description,
            action,
            gvk: self.kind.gvk(),
            parameters: vec![PRETTY],
            body: Body::Nothing,
            answer: Answer::Object(type_name(self.kind)),
            codes: OK,
        }
    }

    fn list(&self, tail: &str) -> Operation {
        let text = format!("list or watch objects of kind {}", self.kind.kind);
        let mut operation = self.operation(self.id("list", "", tail), "list", text);
        operation.answer = Answer::List(list_type_name(self.kind));
        operation.parameters.extend(SELECTING);
        operation
    }

    fn scope_parameters(&self) -> &'static [&'static str] {
        if self.kind.namespaced { &["namespace"] } else { &[] }
    }

    fn item_parameters(&self) -> &'static [&'static str] {
        if self.kind.namespaced { &["name", "namespace"] } else { &["name"] }
    }

    fn collection(&mut self, path: &str) {
        let kind = self.kind;
        let scope = self.scope_parameters();
        if kind.verbs.contains(Verbs::LIST) {
            let operation = self.list("");
            self.put(path, scope, "get", operation);
        }
        if kind.verbs.contains(Verbs::CREATE) {
            let mut operation = self.operation(self.id("create", "", ""), "post", format!("create a {}", kind.kind));
            operation.parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
            operation.body = Body::Object(type_name(kind));
            operation.codes = CREATED;
            self.put(path, scope, "post", operation);
        }
        if kind.verbs.contains(Verbs::DELETE_COLLECTION) {
            let text = format!("delete every selected {}", kind.kind);
            let mut operation = self.operation(self.id("delete", "Collection", ""), "deletecollection", text);
            operation.parameters.extend(SELECTING.into_iter().take(8).chain(DELETING));
            operation.body = Body::DeleteOptions;
            operation.answer = Answer::Object("meta.v1.Status".to_owned());
            self.put(path, scope, "delete", operation);
        }
    }

    fn item(&mut self, path: &str) {
        let kind = self.kind;
        let parameters = self.item_parameters();
        if kind.verbs.contains(Verbs::GET) {
            let operation = self.operation(self.id("read", "", ""), "get", format!("read the named {}", kind.kind));
            self.put(path, parameters, "get", operation);
        }
        if kind.verbs.contains(Verbs::UPDATE) {
            let operation = self.replace("", &kind.gvk());
            self.put(path, parameters, "put", operation);
        }
        if kind.verbs.contains(Verbs::PATCH) {
            let operation = self.patch("", &kind.gvk());
            self.put(path, parameters, "patch", operation);
        }
        if kind.verbs.contains(Verbs::DELETE) {
            let mut operation = self.operation(self.id("delete", "", ""), "delete", format!("delete a {}", kind.kind));
            operation.parameters.extend(DELETING);
            operation.body = Body::DeleteOptions;
            operation.codes = DELETED;
            operation.answer = Answer::Object(match kind.deletes_to_object() {
                true => type_name(kind),
                false => "meta.v1.Status".to_owned(),
            });
            self.put(path, parameters, "delete", operation);
        }
    }

    fn replace(&self, tail: &str, gvk: &Gvk) -> Operation {
        let text = format!("replace {}the named {}", of(tail), self.kind.kind);
        let mut operation = self.operation(self.id("replace", "", tail), "put", text);
        operation.parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
        self.speak(&mut operation, gvk);
        if let Answer::Object(name) = &operation.answer {
            operation.body = Body::Object(name.clone());
        }
        operation.codes = WRITTEN;
        operation
    }

    fn patch(&self, tail: &str, gvk: &Gvk) -> Operation {
        let text = format!("change fields of {}the named {}", of(tail), self.kind.kind);
        let mut operation = self.operation(self.id("patch", "", tail), "patch", text);
        operation.parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE]);
        self.speak(&mut operation, gvk);
        operation.body = Body::Patch { strategic: !self.kind.is_custom() };
        operation.codes = if self.kind.is_custom() { OK } else { WRITTEN };
        operation
    }

    /// Makes an operation speak another kind than the resource's own.
    fn speak(&self, operation: &mut Operation, gvk: &Gvk) {
        operation.gvk = gvk.clone();
        if *gvk != self.kind.gvk() {
            operation.answer = Answer::Object(builtin_name(gvk));
        }
    }

    fn subresource(&mut self, path: &str, subresource: &Subresource) {
        let parameters = self.item_parameters();
        let tail = capital(&subresource.name);
        let gvk = &subresource.kind;
        if gvk.kind.ends_with("Options") {
            return self.connect(path, subresource, &tail);
        }
        if subresource.verbs.contains(Verbs::GET) {
            let text = format!("read {}the named {}", of(&tail), self.kind.kind);
            let mut operation = self.operation(self.id("read", "", &tail), "get", text);
            self.speak(&mut operation, gvk);
            if subresource.name == "log" {
                operation.answer = Answer::Text;
                operation.parameters.extend(LOG);
            }
            self.put(path, parameters, "get", operation);
        }
        if subresource.verbs.contains(Verbs::UPDATE) {
            let operation = self.replace(&tail, gvk);
            self.put(path, parameters, "put", operation);
        }
        if subresource.verbs.contains(Verbs::PATCH) {
            let operation = self.patch(&tail, gvk);
            self.put(path, parameters, "patch", operation);
        }
        if subresource.verbs.contains(Verbs::CREATE) {
            let text = format!("create {}a {}", of(&tail), self.kind.kind);
            let mut operation = self.operation(self.id("create", "", &tail), "post", text);
            self.speak(&mut operation, gvk);
            operation.body = Body::Object(builtin_name(gvk));
            operation.parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
            operation.codes = CREATED;
            self.put(path, parameters, "post", operation);
        }
    }

    /// Streams and proxies: the request is handed on.
    fn connect(&mut self, path: &str, subresource: &Subresource, tail: &str) {
        let methods: &[&'static str] = match &*subresource.name {
            "proxy" => &["delete", "get", "head", "options", "patch", "post", "put"],
            _ => &["get", "post"],
        };
        let query: &[Parameter] = match &*subresource.name {
            "exec" => &EXEC,
            "attach" => &EXEC[1..],
            "portforward" => &PORTS,
            _ => &PROXY,
        };
        let proxy = subresource.name == "proxy";
        let doors: &[(&str, &str)] = if proxy { &[("", ""), ("/{path}", "WithPath")] } else { &[("", "")] };
        for (more, with) in doors {
            let mut path_parameters = self.item_parameters().to_vec();
            path_parameters.extend((!more.is_empty()).then_some("path"));
            for method in methods {
                let id = self.id("connect", &capital(method), &format!("{tail}{with}"));
                let text =
                    format!("connect {} requests to {}the named {}", method.to_uppercase(), of(tail), self.kind.kind);
                let mut operation = self.operation(id, "connect", text);
                operation.gvk = subresource.kind.clone();
                operation.parameters = query.to_vec();
                operation.answer = Answer::Anything;
                self.put(&format!("{path}{more}"), &path_parameters, method, operation);
            }
        }
    }
}

fn of(tail: &str) -> String {
    match tail.is_empty() {
        true => String::new(),
        false => format!("{} of ", tail.to_lowercase()),
    }
}

const EXEC: [Parameter; 6] = [
    parameter("command", "string", "The command and its arguments, one parameter each; there is no shell."),
    parameter("container", "string", "The container; needed when the pod has several."),
    parameter("stderr", "boolean", "Sends the error output of the container."),
    parameter("stdin", "boolean", "Passes standard input to the container."),
    parameter("stdout", "boolean", "Sends the output of the container."),
    parameter("tty", "boolean", "Gives the command a terminal."),
];

const PORTS: [Parameter; 1] = [parameter("ports", "integer", "Ports to forward; needed over WebSockets.")];

const PROXY: [Parameter; 1] = [parameter("path", "string", "The path that the target is asked for.")];

const LOG: [Parameter; 10] = [
    parameter("container", "string", "The container; needed when the pod has several."),
    parameter("follow", "boolean", "Goes on as lines are written."),
    parameter("insecureSkipTLSVerifyBackend", "boolean", "Does not check the certificate of the node."),
    parameter("limitBytes", "integer", "Most bytes to answer."),
    parameter("previous", "boolean", "The log of the container before its last restart."),
    parameter("sinceSeconds", "integer", "Lines of the last seconds only."),
    parameter("sinceTime", "string", "Lines since this RFC 3339 time only."),
    parameter("stream", "string", "'All', 'Stdout' or 'Stderr'."),
    parameter("tailLines", "integer", "The last lines only."),
    parameter("timestamps", "boolean", "Each line begins with the time at which it was written."),
];
