//! Whether the expressions of a policy fit the kinds it is for: told in its status, without effect on what it does.
//!
//! Follows `policy/validating/typechecking.go` and `pkg/controller/validatingadmissionpolicystatus`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::Method;
use pharos_api::registry::Registry;
use pharos_cel::{Environment, Program};
use pharos_store::{Cache, EventType, Item, Scope, Start, WatchEvent};
use pharos_telemetry::Ctx;
use serde_json::{Value, json};

use super::{
    VALIDATING,
    check::VariableTypes,
    definition::{self, ParamKind},
    schema::openapi,
};
use crate::{Result, admission::GROUP, api::Api, authn::UserInfo, authz::SYSTEM_MASTERS, bootstrap};

/// How many kinds one rule's expressions are checked for.
const MAX_TYPES: usize = 10;
const MANAGER: &str = "validatingadmissionpolicy-status-controller";
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Group, version and kind, in the order they are told.
type Gvk = (String, String, String);

/// Looks at every policy that is new or changed.
pub(super) async fn follow(api: Api, ctx: Ctx, policies: Arc<Cache>) {
    let mut wait = FIRST_WAIT;
    while !ctx.is_stopped() {
        let Ok(mut subscription) = policies.subscribe(Scope::All, Start::Initial) else { return };
        loop {
            let item = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                item = subscription.next() => item,
            };
            let event = match item {
                Ok(Item::Event(event)) => event,
                Ok(Item::Synced(_)) => continue,
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break, // Fell behind: start over from the whole state.
            };
            match look(&api, &event).await {
                Ok(()) => wait = FIRST_WAIT,
                Err(error) => {
                    let name = event.object.name();
                    tracing::warn!(name, error = &error as &dyn std::error::Error, "status of admission policy not written");
                    tokio::select! {
                        biased;
                        () = ctx.stopped() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(LONGEST_WAIT);
                    break;
                }
            }
        }
    }
}

async fn look(api: &Api, event: &WatchEvent) -> Result<()> {
    let Ok(policy) = serde_json::from_slice::<Value>(event.object.bytes()) else { return Ok(()) };
    let generation = policy["metadata"]["generation"].as_i64().unwrap_or(0);
    if event.kind == EventType::Deleted || generation <= policy["status"]["observedGeneration"].as_i64().unwrap_or(0) {
        return Ok(());
    }
    let name = event.object.name();
    let warnings = warnings(&policy["spec"], &api.0.resources.registry());
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let applied = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "status": {"observedGeneration": generation, "typeChecking": checked},
    });
    let user = UserInfo::new(format!("system:serviceaccount:kube-system:{MANAGER}"), [SYSTEM_MASTERS]);
    let path = format!("/apis/{GROUP}/v1/{VALIDATING}/{name}/status?fieldManager={MANAGER}&force=true");
    match bootstrap::send(api, &user, Method::PATCH, &path, "application/apply-patch+yaml", &applied).await {
        // Deleted meanwhile.
        Err(error) if error.to_string().contains("not found") => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// What is odd about a policy's expressions, as its status has it.
fn warnings(spec: &Value, registry: &Registry) -> Vec<Value> {
    let environments: Vec<(Gvk, Environment)> = kinds(spec, registry)
        .into_iter()
        .filter_map(|gvk| {
            let environment = environment(spec, &gvk, registry)?;
            Some((gvk, environment))
        })
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(source) = validation[field].as_str().filter(|source| !source.is_empty()) else { continue };
            let found = environments.iter().filter_map(|((group, version, kind), environment)| {
                let error = Program::compile(environment, source).err()?;
                Some(format!("{group}/{version}, Kind={kind}: {error}\n"))
            });
            let found: Vec<String> = found.collect();
            if !found.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{index}].{field}"), "warning": found.join("\n"),
                }));
            }
        }
    }
    warnings
}

/// The names of expressions with the types they have for one kind.
fn environment(spec: &Value, (group, version, kind): &Gvk, registry: &Registry) -> Option<Environment> {
    let object = openapi(registry.by_kind(group, version, kind)?.schema())?;
    let params = ParamKind::parse(&spec["paramKind"])
        .and_then(|kind| openapi(registry.by_kind(&kind.group, &kind.version, &kind.kind)?.schema()));
    let names = definition::names(spec);
    let typed = |variables: &VariableTypes| {
        let environment = names.checking(&variables.schema()).with_schema("object", &object).with_schema("oldObject", &object);
        match &params {
            Some(params) => environment.with_schema("params", params),
            None => environment,
        }
    };
    let mut variables = VariableTypes::default();
    for variable in spec["variables"].as_array().into_iter().flatten() {
        let text = |field: &str| variable[field].as_str().unwrap_or_default();
        let program = Program::compile(&typed(&variables), text("expression")).ok();
        variables.add(text("name"), program.as_ref());
    }
    Some(typed(&variables))
}

/// The kinds a policy's rules name. Rules with wildcards name none.
fn kinds(spec: &Value, registry: &Registry) -> BTreeSet<Gvk> {
    let mut found = BTreeSet::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let list = |field: &str| {
            let mut texts: Vec<&str> = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            texts.sort_unstable();
            texts
        };
        let (groups, versions, mut resources) = (list("apiGroups"), list("apiVersions"), list("resources"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        resources.retain(|resource| !resource.contains(['*', '/']));
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for kind in resources.iter().filter_map(|resource| registry.lookup(group, version, resource)) {
                    found.insert((kind.group.to_string(), kind.version.to_string(), kind.kind.to_string()));
                    count += 1;
                    if count == MAX_TYPES {
                        return found;
                    }
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_named() {
        let registry = Registry::builtin();
        let rule = |groups: &[&str], versions: &[&str], resources: &[&str]| {
            json!({"matchConstraints": {"resourceRules": [{
                "apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": ["*"],
            }]}})
        };
        for (spec, wanted) in [
            (rule(&["apps"], &["v1"], &["deployments", "deployments/scale", "*"]), &["Deployment"][..]),
            (rule(&["", "apps"], &["v1"], &["pods", "deployments"]), &["Pod", "Deployment"]),
            (rule(&["*"], &["v1"], &["pods"]), &[]),
            (rule(&[""], &["*"], &["pods"]), &[]),
            (rule(&["none.example.com"], &["v1"], &["pods"]), &[]),
        ] {
            let found: Vec<String> = kinds(&spec, &registry).into_iter().map(|(_, _, kind)| kind).collect();
            assert_eq!(found, wanted, "{spec}");
        }
    }
}
