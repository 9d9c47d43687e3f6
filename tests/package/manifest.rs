//! The Kubernetes manifest and the Dockerfile. They are examples, and the tests do not run them.

use serde_json::Value;

const MANIFEST: &str = include_str!("../../docs/examples/kubernetes/sidecar.yaml");
const DOCKERFILE: &str = include_str!("../../docs/examples/docker/Dockerfile");

fn documents() -> Vec<Value> {
    serde_yaml::from_multiple(MANIFEST).unwrap_or_else(|error| panic!("{error}"))
}

fn of_kind(kind: &str) -> Value {
    documents().into_iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// The configuration in the manifest.
pub fn configuration() -> String {
    of_kind("ConfigMap")["data"]["coherd.yaml"].as_str().expect("text").to_owned()
}

#[test]
fn the_manifests_configuration_can_be_read_with_its_secrets() {
    let secret = of_kind("Secret");
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in secret["stringData"].as_object().unwrap() {
        std::fs::write(folder.path().join(name), text.as_str().unwrap()).unwrap();
    }
    let text = configuration().replace("/run/secrets/coherd", &folder.path().display().to_string());
    let read = coherd::config::Config::parse(&text, std::path::Path::new("/etc/coherd/coherd.yaml"), &|_| None);
    let config = read.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((config.rules.len(), config.targets[0].scheme.as_str()), (1, "rediss"));
    assert!(config.admin.listen.ip().is_unspecified(), "the kubelet asks from outside of the pod");
}

#[test]
fn the_manifest_mounts_what_its_configuration_names() {
    let pod = &of_kind("Deployment")["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always", "else it would be waited for");
    let mounts: Vec<&str> =
        sidecar["volumeMounts"].as_array().unwrap().iter().map(|it| it["mountPath"].as_str().unwrap()).collect();
    assert_eq!(mounts, ["/etc/coherd", "/run/secrets/coherd"]);
    for mount in sidecar["volumeMounts"].as_array().unwrap() {
        assert!(pod["volumes"].as_array().unwrap().iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
    // A standby is not ready, but its pod has to serve.
    assert!(sidecar["readinessProbe"].is_null());
    assert_eq!(sidecar["livenessProbe"]["httpGet"]["path"], "/livez");
}

#[test]
fn examples_that_nobody_runs_say_so_in_their_first_lines() {
    for text in [MANIFEST, DOCKERFILE] {
        let first = text.lines().next().unwrap();
        assert!(first.contains("as an example: it is not ") && first.contains("run by our tests"), "{first}");
    }
    let version = include_str!("../../Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.unwrap().trim_matches('"');
    assert!(DOCKERFILE.contains(&format!("FROM rust:{version}-")), "the Dockerfile's Rust is not {version}");
}
