//! Who one is, and what one may do: certificates, tokens, service accounts, reviews, impersonation, RBAC.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use caravel_tests::{Namespace, Wire, cluster_dir};
use serde_json::{Value, json};

/// A client of the shared cluster as the user whose kubeconfig entry this is.
fn as_user(name: &str, user: Value) -> Wire {
    let text = std::fs::read_to_string(cluster_dir().join("kubeconfig")).unwrap();
    let mut config: Value = serde_yaml::from_str(&text).unwrap();
    config["users"][0]["user"] = user;
    let file = tempfile::Builder::new().prefix(name).tempfile().unwrap();
    std::fs::write(file.path(), serde_yaml::to_string(&config).unwrap()).unwrap();
    Wire::new(file.path())
}

/// GET as another.
fn impersonating(ns: &Namespace, who: &[(&str, &str)], method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut headers = who.to_vec();
    headers.push(("content-type", "application/json"));
    ns.wire().send(method, path, &headers, body.map(|b| b.to_string().into_bytes()).unwrap_or_default())
}

/// A signing request and its key, both PEM.
fn signing_request(common_name: &str, organization: Option<&str>) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    }
    (params.serialize_request(&key).unwrap().pem().unwrap(), key.serialize_pem())
}

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

#[test]
fn signing_requests_support_all_operations() {
    let ns = Namespace::new("csr");
    let wire = ns.wire();
    let has = |list: &Value, field: &str, name: &str| list.as_array().unwrap().iter().any(|one| one[field] == name);
    assert!(has(&wire.get("/apis").1["groups"], "name", "certificates.k8s.io"));
    assert!(has(&wire.get("/apis/certificates.k8s.io").1["versions"], "version", "v1"));
    let (_, resources) = wire.get("/apis/certificates.k8s.io/v1");
    for name in
        ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"]
    {
        assert!(has(&resources["resources"], "name", name), "{name}: {resources}");
    }
    let signer = format!("example.com/{}", ns.name);
    let request = json!({"metadata": {"generateName": "test-csr-"}, "spec": {"signerName": signer, "expirationSeconds": 3600,
        "request": STANDARD.encode(signing_request("e2e.example.com", None).0), "usages": ["digital signature", "key encipherment", "server auth"]}});
    let created: Vec<Value> = (0..3)
        .map(|_| {
            let (code, made) = wire.post(CSRS, &request);
            assert_eq!(code, 201, "{made}");
            made
        })
        .collect();
    let one = format!("{CSRS}/{}", created[2]["metadata"]["name"].as_str().unwrap());
    let (_, got) = wire.get(&one);
    assert_eq!(
        (&got["metadata"]["uid"], &got["spec"]["expirationSeconds"]),
        (&created[2]["metadata"]["uid"], &json!(3600))
    );
    assert_eq!(got["spec"]["username"], "kubernetes-admin", "the requester is recorded");
    let mine = format!("{CSRS}?fieldSelector=spec.signerName%3D{signer}");
    let (_, list) = wire.get(&mine);
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    let name = created[2]["metadata"]["name"].as_str().unwrap();
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = wire.watch(&format!("{CSRS}?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={from}"));
    let (code, patched) = wire.merge(&one, &json!({"metadata": {"annotations": {"patched": "true"}}}));
    assert_eq!((code, &patched["metadata"]["annotations"]["patched"]), (200, &json!("true")));
    let mut next = patched;
    next["metadata"]["annotations"]["updated"] = json!("true");
    let (code, updated) = wire.put(&one, &next);
    assert_eq!((code, &updated["metadata"]["annotations"]["updated"]), (200, &json!("true")), "{updated}");
    watch.until("the updates", |e| {
        e["type"] == "MODIFIED" && e["object"]["metadata"]["annotations"]["updated"] == "true"
    });
    // Approval has a door of its own.
    let approval = format!("{one}/approval");
    let (code, got) = wire.get(&approval);
    assert_eq!(
        (code, &got["kind"], &got["metadata"]["uid"]),
        (200, &json!("CertificateSigningRequest"), &created[2]["metadata"]["uid"])
    );
    let patch = json!({"metadata": {"annotations": {"patchedapproval": "true"}}, "status": {"conditions": [
        {"type": "ApprovalPatch", "status": "True", "reason": "Test"}]}});
    let (code, mut now) = wire.merge(&approval, &patch);
    assert_eq!((code, now["status"]["conditions"].as_array().unwrap().len()), (200, 1), "{now}");
    assert_eq!(now["metadata"]["annotations"]["patchedapproval"], "true");
    now["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "Approved", "status": "True", "reason": "Test", "message": "Set from a test"}));
    let (code, mut now) = wire.put(&approval, &now);
    assert_eq!((code, &now["status"]["conditions"][1]["type"]), (200, &json!("Approved")), "{now}");
    assert!(now["status"]["conditions"][1]["lastUpdateTime"].is_string(), "{now}");
    // So has the status; it gives the certificate, and approves nothing.
    let status = format!("{one}/status");
    let certificate = rcgen::generate_simple_self_signed(vec!["e2e.example.com".into()]).unwrap().cert.pem();
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": STANDARD.encode(&certificate)}});
    let (code, patched) = wire.merge(&status, &patch);
    assert_eq!((code, &patched["status"]["certificate"]), (200, &json!(STANDARD.encode(&certificate))), "{patched}");
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    now = patched;
    now["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "StatusUpdate", "status": "True", "reason": "Test"}));
    let (code, now) = wire.put(&status, &now);
    assert_eq!((code, &now["status"]["conditions"][2]["type"]), (200, &json!("StatusUpdate")), "{now}");
    assert_eq!(wire.get(&status).1["kind"], "CertificateSigningRequest");
    assert_eq!(wire.delete(&one).0, 200);
    assert_eq!(wire.get(&one).0, 404);
    assert_eq!(wire.get(&mine).1["items"].as_array().unwrap().len(), 2);
    assert_eq!(wire.delete(&mine).0, 200);
    assert_eq!(wire.get(&mine).1["items"].as_array().unwrap().len(), 0);
}

/// From a request to a certificate that its owner logs in with.
#[test]
fn an_approved_request_becomes_a_client_certificate() {
    let ns = Namespace::new("csr-sign");
    let user = format!("jane-{}", ns.name);
    let (pem, key) = signing_request(&user, Some("team"));
    let request = json!({"metadata": {"name": ns.name}, "spec": {"signerName": "kubernetes.io/kube-apiserver-client",
        "expirationSeconds": 3600, "request": STANDARD.encode(pem), "usages": ["digital signature", "key encipherment", "client auth"]}});
    assert_eq!(ns.wire().post(CSRS, &request).0, 201);
    let one = format!("{CSRS}/{}", ns.name);
    let (_, mut now) = ns.wire().get(&one);
    now["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
    assert_eq!(ns.wire().put(&format!("{one}/approval"), &now).0, 200);
    let certificate = ns.eventually("the certificate", || {
        ns.wire().get(&one).1["status"]["certificate"].as_str().map(str::to_owned).ok_or("not yet".into())
    });
    let jane =
        as_user("jane", json!({"client-certificate-data": certificate, "client-key-data": STANDARD.encode(key)}));
    let (code, said) = jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({}));
    assert_eq!((code, &said["status"]["userInfo"]["username"]), (201, &json!(user)), "{said}");
    assert_eq!(said["status"]["userInfo"]["groups"], json!(["team", "system:authenticated"]));
    let (code, said) = jane.get("/api/v1/nodes");
    assert_eq!(code, 403);
    assert_eq!(
        said["message"],
        format!(
            "nodes is forbidden: User \"{user}\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
        )
    );
    ns.wire().delete(&one);
}

/// Nobody becomes an administrator by asking, and who approves must be allowed to.
#[test]
fn signing_requests_are_restricted() {
    let ns = Namespace::new("csr-restricted");
    let request = |group: Option<&str>| {
        json!({"metadata": {"name": ns.name}, "spec": {"signerName": "kubernetes.io/kube-apiserver-client",
            "request": STANDARD.encode(signing_request("mallory", group).0), "usages": ["client auth"]}})
    };
    let (code, said) = ns.wire().post(CSRS, &request(Some("system:masters")));
    assert!(
        code == 403 && said["message"].as_str().unwrap().contains("system:masters group is not allowed"),
        "{code} {said}"
    );
    assert_eq!(ns.wire().post(CSRS, &request(None)).0, 201);
    let one = format!("{CSRS}/{}", ns.name);
    let role = json!({"metadata": {"name": ns.name}, "rules": [{"apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"], "verbs": ["update"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    assert_eq!(ns.wire().post(&format!("{rbac}/clusterroles"), &role).0, 201);
    let binding = json!({"metadata": {"name": ns.name}, "subjects": [{"kind": "User", "name": ns.name, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ns.name}});
    assert_eq!(ns.wire().post(&format!("{rbac}/clusterrolebindings"), &binding).0, 201);
    let (_, mut now) = ns.wire().get(&one);
    now["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
    let who = [("impersonate-user", ns.name.as_str())];
    ns.eventually("the refusal of the approval", || {
        let (code, said) = impersonating(&ns, &who, "PUT", &format!("{one}/approval"), Some(now.clone()));
        let told = said["message"].as_str().unwrap_or_default().to_owned();
        match code == 403
            && told.contains(
                "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"",
            ) {
            true => Ok(()),
            false => Err(format!("{code} {said}")),
        }
    });
    now["status"] = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "Test"}]});
    let (code, said) = impersonating(&ns, &who, "PUT", &format!("{one}/status"), Some(now.clone()));
    assert!(
        code == 403 && said["message"].as_str().unwrap().contains("user not permitted to sign requests"),
        "{code} {said}"
    );
    ns.wire().merge(&format!("{rbac}/clusterroles/{}", ns.name), &json!({"rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]},
        {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["kubernetes.io/*"], "verbs": ["approve"]}]}));
    ns.eventually("the approval", || {
        let (_, mut now) = ns.wire().get(&one);
        now["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
        match impersonating(&ns, &who, "PUT", &format!("{one}/approval"), Some(now)) {
            (200, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    for path in [format!("{rbac}/clusterroles/{}", ns.name), format!("{rbac}/clusterrolebindings/{}", ns.name), one] {
        ns.wire().delete(&path);
    }
}

fn account(ns: &Namespace, name: &str) -> String {
    ns.make("serviceaccounts", &json!({"metadata": {"name": name}}));
    ns.path(&format!("serviceaccount/{name}"))
}

fn token(ns: &Namespace, account: &str, spec: Value) -> String {
    let (code, said) = ns.wire().post(&format!("{account}/token"), &json!({"spec": spec}));
    assert_eq!(code, 201, "{said}");
    let token = said["status"]["token"].as_str().unwrap().to_owned();
    assert!(!token.is_empty() && said["status"]["expirationTimestamp"].is_string(), "{said}");
    token
}

fn review(ns: &Namespace, token: &str, audiences: &[&str]) -> Value {
    let body = json!({"spec": {"token": token, "audiences": audiences}});
    let (code, said) = ns.wire().post("/apis/authentication.k8s.io/v1/tokenreviews", &body);
    assert_eq!(code, 201, "{said}");
    said["status"].clone()
}

#[test]
fn a_requested_token_passes_its_review() {
    let ns = Namespace::new("token");
    let path = account(&ns, "sa");
    let token = token(&ns, &path, json!({}));
    let status = review(&ns, &token, &[]);
    assert_eq!(status["authenticated"], true, "{status}");
    assert!(status.get("error").is_none(), "{status}");
    assert_eq!(status["user"]["username"], format!("system:serviceaccount:{}:sa", ns.name));
    let groups =
        json!(["system:serviceaccounts", format!("system:serviceaccounts:{}", ns.name), "system:authenticated"]);
    assert_eq!(status["user"]["groups"], groups);
    let me =
        as_user("sa", json!({"token": token})).post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).1;
    assert_eq!(me["status"]["userInfo"]["uid"], ns.get("serviceaccount/sa")["metadata"]["uid"], "{me}");
    let status = review(&ns, &(token + "x"), &[]);
    assert!(status["authenticated"] != true && status["error"].is_string(), "{status}");
    let (code, said) = ns.wire().post(&format!("{path}/token"), &json!({"spec": {"expirationSeconds": 60}}));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
}

#[test]
fn a_bound_token_ends_with_its_pod() {
    let ns = Namespace::new("token-bound");
    let path = account(&ns, "sa");
    let pod = |name: &str, account: &str| {
        json!({"metadata": {"name": name}, "spec": {"serviceAccountName": account, "nodeSelector": {"no-such": "node"},
            "containers": [{"name": "c", "image": "test/busybox:1"}]}})
    };
    let made = ns.make("pods", &pod("p", "sa"));
    let bound = |uid: &Value| json!({"audiences": ["vault"], "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}});
    let token = token(&ns, &path, bound(&made["metadata"]["uid"]));
    let status = review(&ns, &token, &["vault", "other"]);
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])), "{status}");
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_ne!(review(&ns, &token, &[])["authenticated"], true, "it is for another audience");
    let (code, said) = ns.wire().post(&format!("{path}/token"), &json!({"spec": bound(&json!("another"))}));
    assert_eq!((code, said["reason"].as_str()), (409, Some("Conflict")), "{said}");
    ns.make("pods", &pod("q", "default"));
    let (code, _) = ns.wire().post(
        &format!("{path}/token"),
        &json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "q"}}}),
    );
    assert_eq!(code, 400, "the Pod runs as another account");
    assert_eq!(ns.wire().delete(&ns.path("pod/p")).0, 200);
    ns.eventually("the token is void", || match review(&ns, &token, &["vault"]) {
        status if status["authenticated"] != true && status["error"].is_string() => Ok(()),
        status => Err(status.to_string()),
    });
}

/// Secrets of the token type are filled, and go with their account.
#[test]
fn token_secrets_are_filled() {
    let ns = Namespace::new("token-secret");
    let secret = |name: &str, account: &str| json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}}, "type": "kubernetes.io/service-account-token"});
    let path = account(&ns, "sa");
    ns.make("secrets", &secret("s", "sa"));
    let filled = ns.until_that("secret/s", |s| s["data"]["token"].is_string());
    let decoded =
        |key: &str| String::from_utf8(STANDARD.decode(filled["data"][key].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(decoded("namespace"), ns.name);
    assert!(decoded("ca.crt").contains("BEGIN CERTIFICATE"));
    assert_eq!(
        filled["metadata"]["annotations"]["kubernetes.io/service-account.uid"],
        ns.get("serviceaccount/sa")["metadata"]["uid"]
    );
    let user = as_user("legacy", json!({"token": decoded("token")}));
    let (_, me) = user.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({}));
    assert_eq!(me["status"]["userInfo"]["username"], format!("system:serviceaccount:{}:sa", ns.name), "{me}");
    ns.make("secrets", &secret("lost", "nobody"));
    ns.until_gone("secret/lost");
    assert_eq!(ns.wire().delete(&path).0, 200);
    ns.until_gone("secret/s");
    assert_eq!(user.get("/api").0, 401);
}

/// A service verifies a token with nothing but the issuer's published documents, as OIDC clients do.
#[test]
fn the_issuer_publishes_its_keys() {
    let ns = Namespace::new("oidc");
    let path = account(&ns, "sa");
    let token = token(&ns, &path, json!({"audiences": ["oidc-test"]}));
    // Any service account may read the documents.
    let reader = as_user("oidc", json!({"token": self::token(&ns, &path, json!({}))}));
    let (code, document) = reader.get("/.well-known/openid-configuration");
    assert_eq!(code, 200, "{document}");
    let parts: Vec<&str> = token.split('.').collect();
    let part = |i: usize| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[i]).unwrap()).unwrap() };
    let (header, claims) = (part(0), part(1));
    assert_eq!(document["issuer"], claims["iss"]);
    assert_eq!(claims["aud"], json!(["oidc-test"]));
    assert_eq!(claims["sub"], format!("system:serviceaccount:{}:sa", ns.name));
    for field in ["response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"] {
        assert!(document[field].is_array(), "{document}");
    }
    assert!(document["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"), "{document}");
    let (code, keys) = reader.get("/openid/v1/jwks");
    assert_eq!(code, 200, "{keys}");
    let key =
        keys["keys"].as_array().unwrap().iter().find(|k| k["kid"] == header["kid"]).expect("the key of the token");
    assert_eq!(key["alg"], header["alg"]);
    let mut point = vec![4];
    for axis in ["x", "y"] {
        point.extend(URL_SAFE_NO_PAD.decode(key[axis].as_str().unwrap()).unwrap());
    }
    let signed = format!("{}.{}", parts[0], parts[1]);
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap())
        .expect("the signature is the issuer's");
}

#[test]
fn every_namespace_has_the_root_certificate() {
    let ns = Namespace::new("root-ca");
    let first = ns.until_that("configmap/kube-root-ca.crt", |m| m["data"]["ca.crt"].is_string());
    let path = ns.path("configmap/kube-root-ca.crt");
    assert_eq!(ns.wire().delete(&path).0, 200);
    ns.until_that("configmap/kube-root-ca.crt", |m| {
        m["metadata"]["uid"] != first["metadata"]["uid"] && m["data"] == first["data"]
    });
    assert_eq!(ns.wire().merge(&path, &json!({"data": {"ca.crt": "", "more": "x"}})).0, 200);
    ns.until_that("configmap/kube-root-ca.crt", |m| m["data"] == first["data"]);
}

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn automounting_is_decided_by_pod_then_account() {
    let ns = Namespace::new("automount");
    for (name, said) in [("plain", None), ("yes", Some(true)), ("no", Some(false))] {
        let mut account = json!({"metadata": {"name": name}});
        if let Some(said) = said {
            account["automountServiceAccountToken"] = json!(said);
        }
        ns.make("serviceaccounts", &account);
    }
    for (account, pod_says, mounted) in [
        ("plain", None, true),
        ("yes", None, true),
        ("no", None, false),
        ("plain", Some(true), true),
        ("yes", Some(true), true),
        ("no", Some(true), true),
        ("plain", Some(false), false),
        ("yes", Some(false), false),
        ("no", Some(false), false),
    ] {
        let mut pod = json!({"metadata": {"generateName": "p-"}, "spec": {"serviceAccountName": account,
            "nodeSelector": {"no-such": "node"}, "containers": [{"name": "c", "image": "test/busybox:1"}]}});
        if let Some(says) = pod_says {
            pod["spec"]["automountServiceAccountToken"] = json!(says);
        }
        let made = ns.make("pods", &pod);
        let mounts = made["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
        assert_eq!(mounts.iter().any(|m| m["mountPath"] == MOUNT), mounted, "{account} {pod_says:?}: {made}");
    }
}

/// Runs a Pod of this account to its end and returns what it printed.
fn output(ns: &Namespace, name: &str, account: &str, script: &str, volumes: Value) -> String {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"serviceAccountName": account, "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script]}]}});
    if let Some(volumes) = volumes.as_array().filter(|all| !all.is_empty()) {
        pod["spec"]["volumes"] = json!(volumes);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": volumes[0]["name"], "mountPath": "/projected"}]);
    }
    ns.make("pods", &pod);
    let ended = ns
        .until_that(&format!("pod/{name}"), |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    assert_eq!(ended["status"]["phase"], "Succeeded", "{ended:#}");
    let (_, log) = ns.wire().get(&format!("{}/log", ns.path(&format!("pod/{name}"))));
    log.as_str().map(str::to_owned).unwrap_or_else(|| log.to_string())
}

#[test]
fn tokens_are_mounted_into_pods() {
    let ns = Namespace::new("token-mount");
    account(&ns, "sa");
    let script = format!("for f in token ca.crt namespace; do cat {MOUNT}/$f; echo; echo --; done");
    let out = output(&ns, "p", "sa", &script, json!([]));
    let parts: Vec<&str> = out.split("\n--\n").map(str::trim).collect();
    let status = review(&ns, parts[0], &[]);
    assert_eq!(status["user"]["username"], format!("system:serviceaccount:{}:sa", ns.name), "{status}");
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(parts[1], ns.get("configmap/kube-root-ca.crt")["data"]["ca.crt"].as_str().unwrap().trim());
    assert_eq!(parts[2], ns.name);
}

#[test]
fn projected_tokens_have_their_audience_and_mode() {
    let ns = Namespace::new("token-projected");
    account(&ns, "sa");
    let volumes = json!([{"name": "v", "projected": {"defaultMode": 256, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "vault"}}]}}]);
    let out = output(&ns, "p", "sa", "cat /projected/token; echo; stat -L -c %a /projected/token", volumes);
    let mut lines = out.lines();
    let token = lines.next().unwrap();
    assert_eq!(review(&ns, token, &["vault"])["authenticated"], true);
    assert_ne!(review(&ns, token, &[])["authenticated"], true);
    assert_eq!(lines.next(), Some("400"), "{out}");
}

#[test]
fn lifecycle_of_a_service_account() {
    let ns = Namespace::new("sa-life");
    let collection = ns.wire().collection(&ns.name, "serviceaccounts").unwrap();
    let watch = ns.wire().watch(&format!("{collection}?watch=true&labelSelector=life%3D{}", ns.name));
    ns.make("serviceaccounts", &json!({"metadata": {"name": "sa", "labels": {"life": ns.name}}}));
    watch.until("the creation", |e| e["type"] == "ADDED" && e["object"]["metadata"]["name"] == "sa");
    let (code, said) = ns.wire().strategic(&ns.path("sa/sa"), &json!({"automountServiceAccountToken": false}));
    assert_eq!((code, &said["automountServiceAccountToken"]), (200, &json!(false)));
    watch.until("the patch", |e| e["type"] == "MODIFIED" && e["object"]["automountServiceAccountToken"] == false);
    let everywhere = format!("/api/v1/serviceaccounts?labelSelector=life%3D{}", ns.name);
    let (_, list) = ns.wire().get(&everywhere);
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["items"][0]["automountServiceAccountToken"]),
        (1, &json!(false))
    );
    assert_eq!(ns.wire().delete(&format!("{collection}?labelSelector=life%3D{}", ns.name)).0, 200);
    watch.until("the deletion", |e| e["type"] == "DELETED" && e["object"]["metadata"]["name"] == "sa");
}

#[test]
fn a_service_account_is_updated() {
    let ns = Namespace::new("sa-update");
    let path = account(&ns, "sa");
    let mut now = ns.wire().get(&path).1;
    now["automountServiceAccountToken"] = json!(false);
    let (code, said) = ns.wire().put(&path, &now);
    assert_eq!((code, &said["automountServiceAccountToken"]), (200, &json!(false)), "{said}");
    now["automountServiceAccountToken"] = json!(true);
    assert_eq!(ns.wire().put(&path, &now).0, 409, "that version is gone");
}

/// What a review says of a user is what happens to the user.
#[test]
fn reviews_agree_with_what_happens() {
    let ns = Namespace::new("reviews");
    account(&ns, "sa");
    let user = format!("system:serviceaccount:{}:sa", ns.name);
    let maps = ns.wire().collection(&ns.name, "configmaps").unwrap();
    let ask = |kind: &str, verb: &str| {
        let path = match kind {
            "local" => format!("/apis/authorization.k8s.io/v1/namespaces/{}/localsubjectaccessreviews", ns.name),
            _ => "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(),
        };
        let body = json!({"metadata": {"namespace": if kind == "local" { ns.name.as_str() } else { "" }}, "spec": {"user": user,
            "resourceAttributes": {"namespace": ns.name, "verb": verb, "resource": "configmaps"}}});
        let (code, said) = ns.wire().post(&path, &body);
        assert_eq!(code, 201, "{said}");
        said["status"]["allowed"] == true
    };
    let who = [("impersonate-user", user.as_str())];
    let may_list = || impersonating(&ns, &who, "GET", &maps, None).0;
    assert_eq!((may_list(), ask("global", "list"), ask("local", "list")), (403, false, false));
    ns.make("roles", &json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]}));
    ns.make(
        "rolebindings",
        &json!({"metadata": {"name": "b"}, "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": ns.name}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}}),
    );
    ns.eventually("the binding holds", || if may_list() == 200 { Ok(()) } else { Err("not yet".into()) });
    assert_eq!((ask("global", "list"), ask("local", "list"), ask("local", "delete")), (true, true, false));
    let body =
        json!({"spec": {"resourceAttributes": {"namespace": ns.name, "verb": "list", "resource": "configmaps"}}});
    let (_, said) =
        impersonating(&ns, &who, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", Some(body));
    assert_eq!(said["status"]["allowed"], true, "{said}");
    let rules = json!({"spec": {"namespace": ns.name}});
    let (_, said) =
        impersonating(&ns, &who, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", Some(rules));
    let found = said["status"]["resourceRules"]
        .as_array()
        .unwrap()
        .iter()
        .any(|r| r["resources"] == json!(["configmaps"]) && r["verbs"] == json!(["list"]));
    assert!(found, "{said}");
}

/// Every part of another identity is a permission of its own.
#[test]
fn impersonation_is_granted_part_by_part() {
    let ns = Namespace::new("impersonate");
    let path = account(&ns, "sa");
    let actor = as_user("actor", json!({"token": token(&ns, &path, json!({}))}));
    let review = |headers: &[(&str, &str)]| {
        let mut all = headers.to_vec();
        all.push(("content-type", "application/json"));
        actor.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &all, b"{}".to_vec())
    };
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": ns.name}, "rules": [
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["dev"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["7"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scope"], "resourceNames": ["view"], "verbs": ["impersonate"]}]});
    assert_eq!(ns.wire().post(&format!("{rbac}/clusterroles"), &role).0, 201);
    let binding = json!({"metadata": {"name": ns.name}, "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": ns.name}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ns.name}});
    assert_eq!(ns.wire().post(&format!("{rbac}/clusterrolebindings"), &binding).0, 201);
    ns.eventually("jane may be impersonated", || match review(&[("impersonate-user", "jane")]) {
        (201, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    let whole = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-scope", "view"),
    ];
    let (code, said) = review(&whole);
    assert_eq!(code, 201, "{said}");
    assert_eq!(
        said["status"]["userInfo"],
        json!({"username": "jane", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"scope": ["view"]}})
    );
    for (bad, what) in [
        ([("impersonate-user", "joe"), ("impersonate-group", "dev")], "users"),
        ([("impersonate-user", "jane"), ("impersonate-group", "system:masters")], "groups"),
        ([("impersonate-user", "jane"), ("impersonate-uid", "8")], "uids"),
        ([("impersonate-user", "jane"), ("impersonate-extra-scope", "edit")], "userextras"),
    ] {
        let (code, said) = review(&bad);
        assert!(
            code == 403 && said["message"].as_str().unwrap().contains(&format!("cannot impersonate resource \"{what}")),
            "{code} {said}"
        );
    }
    ns.wire().delete(&format!("{rbac}/clusterroles/{}", ns.name));
    ns.wire().delete(&format!("{rbac}/clusterrolebindings/{}", ns.name));
}

/// Nobody hands out more than they have, and aggregated roles take in what is labelled for them.
#[test]
fn roles_do_not_escalate() {
    let ns = Namespace::new("escalate");
    account(&ns, "sa");
    let user = format!("system:serviceaccount:{}:sa", ns.name);
    ns.make(
        "roles",
        &json!({"metadata": {"name": "own"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create"]}]}),
    );
    ns.make("rolebindings", &json!({"metadata": {"name": "own"}, "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": ns.name}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "own"}}));
    let who = [("impersonate-user", user.as_str())];
    let roles = ns.wire().collection(&ns.name, "roles").unwrap();
    let role = |name: &str, verb: &str| json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": [verb]}]});
    ns.eventually("a role within one's own", || {
        match impersonating(&ns, &who, "POST", &roles, Some(role("within", "get"))) {
            (201, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    let (code, said) = impersonating(&ns, &who, "POST", &roles, Some(role("beyond", "delete")));
    let told = said["message"].as_str().unwrap();
    assert!(code == 403 && told.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"delete\"]}"), "{code} {said}");
    let bindings = ns.wire().collection(&ns.name, "rolebindings").unwrap();
    let binding = |name: &str, kind: &str, role: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "x"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}})
    };
    assert_eq!(impersonating(&ns, &who, "POST", &bindings, Some(binding("a", "Role", "within"))).0, 201);
    assert_eq!(impersonating(&ns, &who, "POST", &bindings, Some(binding("b", "ClusterRole", "cluster-admin"))).0, 403);
    let cluster_roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let part = json!({"metadata": {"name": format!("{}-part", ns.name), "labels": {"part-of": ns.name}},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    let whole = json!({"metadata": {"name": ns.name}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part-of": ns.name}}]}});
    assert_eq!(ns.wire().post(cluster_roles, &whole).0, 201);
    assert_eq!(ns.wire().post(cluster_roles, &part).0, 201);
    let path = format!("{cluster_roles}/{}", ns.name);
    ns.eventually("the rules are aggregated", || match ns.wire().get(&path).1 {
        role if role["rules"] == part["rules"] => Ok(()),
        role => Err(role.to_string()),
    });
    ns.wire().delete(&path);
    ns.wire().delete(&format!("{path}-part"));
}

/// A node is held to its own Node and Pods.
#[test]
fn nodes_are_restricted_to_their_own() {
    let ns = Namespace::new("node-restriction");
    let node = format!("node-{}", ns.name);
    let user = format!("system:node:{node}");
    let who = [("impersonate-user", user.as_str()), ("impersonate-group", "system:nodes")];
    let refused = |method: &str, path: &str, body: Value, why: &str| {
        let (code, said) = impersonating(&ns, &who, method, path, Some(body));
        assert!(code == 403 && said["message"].as_str().unwrap().contains(why), "{code} {said}");
    };
    let (_, nodes) = ns.wire().get("/api/v1/nodes");
    let other = nodes["items"][0]["metadata"]["name"].as_str().unwrap();
    let mut real = nodes["items"][0].clone();
    real["metadata"]["labels"]["x"] = json!("y");
    refused("PUT", &format!("/api/v1/nodes/{other}"), real, "is not allowed to modify node");
    let pods = ns.wire().collection(&ns.name, "pods").unwrap();
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    refused("POST", &pods, pod, "can only create mirror pods");
    ns.make("pods", &json!({"metadata": {"name": "q"}, "spec": {"nodeSelector": {"no-such": "node"}, "containers": [{"name": "c", "image": "i"}]}}));
    refused("DELETE", &format!("{pods}/q"), json!({}), "can only delete pods with spec.nodeName set to itself");
    refused(
        "POST",
        "/api/v1/nodes",
        json!({"metadata": {"name": node, "labels": {"node-restriction.kubernetes.io/a": "b"}}}),
        "is not allowed to set the following labels",
    );
    let (code, made) = impersonating(
        &ns,
        &who,
        "POST",
        "/api/v1/nodes",
        Some(json!({"metadata": {"name": node}, "spec": {"unschedulable": true}})),
    );
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    ns.wire().delete(&format!("/api/v1/nodes/{node}"));
}

/// Tokens of another issuer, by a configuration file: its published keys verify them, its claims name the user.
#[test]
fn tokens_of_other_issuers_are_good_when_configured() {
    use caravel_tests::ControlPlane;
    use caravel_tests::extension::{Extension, Reply};
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use std::sync::{Arc, OnceLock};
    let random = ring::rand::SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let url: Arc<OnceLock<String>> = Arc::default();
    let ns = Namespace::new("issuer");
    let own = url.clone();
    let server = Extension::start(&ns, "issuer", move |call| match call.path.as_str() {
        "/.well-known/openid-configuration" => {
            Reply::Json(json!({"issuer": own.get(), "jwks_uri": format!("{}/keys", own.get().unwrap())}))
        }
        _ => Reply::Json(json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])}]})),
    });
    let issuer = url.get_or_init(|| format!("https://{}:{}", server.address, server.port)).clone();
    let sign = |claims: Value, id: &str| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": id})), part(&claims));
        let signature = pair.sign(&random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.yaml");
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "issuer": {"url": issuer, "certificateAuthority": server.ca, "audiences": ["kube"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"claim": "groups", "prefix": ""}}}]});
    std::fs::write(&file, config.to_string()).unwrap();
    let plane = ControlPlane::start_with(&[&format!("--authentication-config={}", file.display()), "--api-only"]);
    let wire = Wire::new(&plane.kubeconfig());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": issuer, "sub": "jane", "aud": "kube", "exp": now + 600, "groups": ["dev"]});
    let review = |token: &str| {
        let (code, said) = wire.post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": token}}));
        assert_eq!(code, 201, "{said}");
        said["status"].clone()
    };
    let status = review(&sign(claims.clone(), "one"));
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"], json!({"username": "oidc:jane", "groups": ["dev", "system:authenticated"]}));
    let calls = server.calls().len();
    review(&sign(claims.clone(), "one"));
    assert_eq!(server.calls().len(), calls, "keys that are known are not asked for again");
    for (claim, value) in [("aud", json!("other")), ("exp", json!(now - 1)), ("iss", json!("https://another.example"))]
    {
        let mut bad = claims.clone();
        bad[claim] = value;
        assert_ne!(review(&sign(bad, "one"))["authenticated"], true, "{claim}");
    }
    assert_ne!(review(&sign(claims.clone(), "two"))["authenticated"], true, "an unknown key");
    let forged =
        sign(claims, "one").rsplit_once('.').map(|(signed, _)| format!("{signed}.{}", "A".repeat(86))).unwrap();
    assert_ne!(review(&forged)["authenticated"], true, "a forged signature");
}
