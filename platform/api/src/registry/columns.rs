//! Printer columns of the built-in kinds, as upstream's printers (`pkg/printers/internalversion`) define them.

use std::borrow::Cow;

use crate::schema::{Definition, Descriptions, Schema, Str};

/// A column; a description that begins with `@` is that of the field at this path.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) ty: &'static str,
    pub(super) format: &'static str,
    pub(super) description: &'static str,
    pub(super) priority: i32,
}

const fn col(name: &'static str, ty: &'static str, description: &'static str) -> Row {
    Row { name, ty, format: "", description, priority: 0 }
}

const fn wide(name: &'static str, ty: &'static str, description: &'static str) -> Row {
    Row { name, ty, format: "", description, priority: 1 }
}

const NAME: Row = Row { name: "Name", ty: "string", format: "name", description: "@metadata.name", priority: 0 };
const AGE: Row = col("Age", "string", "@metadata.creationTimestamp");
const CREATED_AT: Row = col("Created At", "date", "@metadata.creationTimestamp");
const CONTAINERS: Row = wide("Containers", "string", "Names of each container in the template.");
const IMAGES: Row = wide("Images", "string", "Images referenced by each container in the template.");
const SELECTOR: Row = wide("Selector", "string", "@spec.selector");

/// The description of a column, read from the schema where the row points there.
pub(super) fn describe(row: &Row, definition: &'static Definition, descriptions: &Descriptions) -> Str {
    let Some(path) = row.description.strip_prefix('@') else { return Cow::Borrowed(row.description) };
    let mut at = definition;
    let mut found = "";
    for name in path.split('.') {
        let Some(position) = at.schema.properties.iter().position(|p| p.name == name) else { return Cow::Borrowed("") };
        found = descriptions.property(at, position);
        match target(&at.schema.properties[position].schema) {
            Some(next) => at = next,
            None => break,
        }
    }
    Cow::Owned(found.to_owned())
}

fn target(schema: &Schema) -> Option<&'static Definition> {
    schema.target.or_else(|| schema.items.as_deref().and_then(|items| items.target))
}

/// The columns of a kind; name and creation time for kinds that upstream has no printer for.
pub(super) fn of(group: &str, kind: &str) -> Vec<Row> {
    match (group, kind) {
        ("", "Pod") => vec![
            NAME,
            col("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
            col("Status", "string", "The aggregate status of the containers in this pod."),
            col(
                "Restarts",
                "string",
                "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
            ),
            AGE,
            wide("IP", "string", "@status.podIP"),
            wide("Node", "string", "@spec.nodeName"),
            wide("Nominated Node", "string", "@status.nominatedNodeName"),
            wide("Readiness Gates", "string", "@spec.readinessGates"),
        ],
        ("", "PodTemplate") => vec![
            NAME,
            col("Containers", "string", "Names of each container in the template."),
            col("Images", "string", "Images referenced by each container in the template."),
            col("Pod Labels", "string", "The labels for the pod template."),
        ],
        ("policy", "PodDisruptionBudget") => vec![
            NAME,
            col("Min Available", "string", "The minimum number of pods that must be available."),
            col("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
            col("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
            AGE,
        ],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => vec![
            NAME,
            col("Desired", "integer", "@spec.replicas"),
            col("Current", "integer", "@status.replicas"),
            col("Ready", "integer", "@status.readyReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("apps", "DaemonSet") => vec![
            NAME,
            col("Desired", "integer", "@status.desiredNumberScheduled"),
            col("Current", "integer", "@status.currentNumberScheduled"),
            col("Ready", "integer", "@status.numberReady"),
            col("Up-to-date", "integer", "@status.updatedNumberScheduled"),
            col("Available", "integer", "@status.numberAvailable"),
            col("Node Selector", "string", "@spec.template.spec.nodeSelector"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("batch", "Job") => vec![
            NAME,
            col("Status", "string", "Status of the job."),
            col("Completions", "string", "@status.succeeded"),
            col("Duration", "string", "Time required to complete the job."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("batch", "CronJob") => vec![
            NAME,
            col("Schedule", "string", "@spec.schedule"),
            col("Timezone", "string", "@spec.timeZone"),
            col("Suspend", "boolean", "@spec.suspend"),
            col("Active", "integer", "@status.active"),
            col("Last Schedule", "string", "@status.lastScheduleTime"),
            AGE,
            CONTAINERS,
            IMAGES,
            wide("Selector", "string", "@spec.jobTemplate.spec.selector"),
        ],
        ("", "Service") => vec![
            NAME,
            col("Type", "string", "@spec.type"),
            col("Cluster-IP", "string", "@spec.clusterIP"),
            col("External-IP", "string", "@spec.externalIPs"),
            col("Port(s)", "string", "@spec.ports.port"),
            AGE,
            SELECTOR,
        ],
        ("networking.k8s.io", "Ingress") => vec![
            NAME,
            col("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
            col("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
            col("Address", "string", "Address is a list containing ingress points for the load-balancer"),
            col("Ports", "string", "Ports of TLS configurations that open"),
            AGE,
        ],
        ("networking.k8s.io", "IngressClass") => vec![
            NAME,
            col("Controller", "string", "Controller that is responsible for handling this class"),
            col("Parameters", "string", "A reference to a resource with additional parameters"),
            AGE,
        ],
        ("apps", "StatefulSet") => {
            vec![NAME, col("Ready", "string", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES]
        }
        ("", "Endpoints") => vec![NAME, col("Endpoints", "string", "@subsets"), AGE],
        ("", "Node") => vec![
            NAME,
            col("Status", "string", "The status of the node"),
            col("Roles", "string", "The roles of the node"),
            AGE,
            col("Version", "string", "@status.nodeInfo.kubeletVersion"),
            wide("Internal-IP", "string", "@status.addresses"),
            wide("External-IP", "string", "@status.addresses"),
            wide("OS-Image", "string", "@status.nodeInfo.osImage"),
            wide("Kernel-Version", "string", "@status.nodeInfo.kernelVersion"),
            wide("Container-Runtime", "string", "@status.nodeInfo.containerRuntimeVersion"),
        ],
        ("", "Event") | ("events.k8s.io", "Event") => vec![
            col("Last Seen", "string", "@lastTimestamp"),
            col("Type", "string", "@type"),
            col("Reason", "string", "@reason"),
            col("Object", "string", "@involvedObject"),
            wide("Subobject", "string", "@involvedObject.fieldPath"),
            wide("Source", "string", "@source"),
            col("Message", "string", "@message"),
            wide("First Seen", "string", "@firstTimestamp"),
            wide("Count", "string", "@count"),
            Row { name: "Name", ty: "string", format: "name", description: "@metadata.name", priority: 1 },
        ],
        ("", "Namespace") => vec![NAME, col("Status", "string", "The status of the namespace"), AGE],
        ("", "Secret") => vec![NAME, col("Type", "string", "@type"), col("Data", "string", "@data"), AGE],
        ("", "ServiceAccount") => vec![NAME, col("Secrets", "string", "@secrets"), AGE],
        ("", "PersistentVolume") => vec![
            NAME,
            col("Capacity", "string", "@spec.capacity"),
            col("Access Modes", "string", "@spec.accessModes"),
            col("Reclaim Policy", "string", "@spec.persistentVolumeReclaimPolicy"),
            col("Status", "string", "@status.phase"),
            col("Claim", "string", "@spec.claimRef"),
            col("StorageClass", "string", "StorageClass of the pv"),
            col("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
            col("Reason", "string", "@status.reason"),
            AGE,
            wide("VolumeMode", "string", "@spec.volumeMode"),
        ],
        ("", "PersistentVolumeClaim") => vec![
            NAME,
            col("Status", "string", "@status.phase"),
            col("Volume", "string", "@spec.volumeName"),
            col("Capacity", "string", "@status.capacity"),
            col("Access Modes", "string", "@status.accessModes"),
            col("StorageClass", "string", "StorageClass of the pvc"),
            col("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
            AGE,
            wide("VolumeMode", "string", "@spec.volumeMode"),
        ],
        ("", "ComponentStatus") => vec![
            NAME,
            col("Status", "string", "Status of the component conditions"),
            col("Message", "string", "Message of the component conditions"),
            col("Error", "string", "Error of the component conditions"),
        ],
        ("apps", "Deployment") => vec![
            NAME,
            col("Ready", "string", "Number of the pod with ready state"),
            col("Up-to-date", "string", "@status.updatedReplicas"),
            col("Available", "string", "@status.availableReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("autoscaling", "HorizontalPodAutoscaler") => vec![
            NAME,
            col("Reference", "string", "@spec.scaleTargetRef"),
            col("Targets", "string", "@spec.metrics"),
            col("MinPods", "string", "@spec.minReplicas"),
            col("MaxPods", "string", "@spec.maxReplicas"),
            col("Replicas", "string", "@status.currentReplicas"),
            AGE,
        ],
        ("autoscaling", "Scale") => {
            vec![NAME, col("Desired", "integer", "@spec.replicas"), col("Available", "integer", "@status.replicas"), AGE]
        }
        ("", "ConfigMap") => vec![NAME, col("Data", "string", "@data"), AGE],
        ("networking.k8s.io", "NetworkPolicy") => vec![NAME, col("Pod-Selector", "string", "@spec.podSelector"), AGE],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => vec![
            NAME,
            col("Role", "string", "@roleRef"),
            AGE,
            wide("Users", "string", "Users in the roleBinding"),
            wide("Groups", "string", "Groups in the roleBinding"),
            wide("ServiceAccounts", "string", "ServiceAccounts in the roleBinding"),
        ],
        ("certificates.k8s.io", "CertificateSigningRequest") => vec![
            NAME,
            AGE,
            col("SignerName", "string", "@spec.signerName"),
            col("Requestor", "string", "@spec.username"),
            col("RequestedDuration", "string", "@spec.expirationSeconds"),
            col("Condition", "string", "@status.conditions"),
        ],
        ("certificates.k8s.io", "ClusterTrustBundle") => vec![NAME, col("SignerName", "string", "@spec.signerName")],
        ("certificates.k8s.io", "PodCertificateRequest") => vec![
            NAME,
            col("PodName", "string", "@spec.podName"),
            col("ServiceAccountName", "string", "@spec.serviceAccountName"),
            col("NodeName", "string", "@spec.nodeName"),
            col("SignerName", "string", "@spec.signerName"),
            col("State", "string", "Is the request Pending, Issued, Denied, or Failed?"),
        ],
        ("coordination.k8s.io", "Lease") => vec![NAME, col("Holder", "string", "@spec.holderIdentity"), AGE],
        ("storage.k8s.io", "StorageClass") => vec![
            NAME,
            col("Provisioner", "string", "@provisioner"),
            col("ReclaimPolicy", "string", "@reclaimPolicy"),
            col("VolumeBindingMode", "string", "@volumeBindingMode"),
            col("AllowVolumeExpansion", "string", "@allowVolumeExpansion"),
            AGE,
        ],
        ("storage.k8s.io", "VolumeAttributesClass") => vec![NAME, col("DriverName", "string", "@driverName"), AGE],
        ("storage.k8s.io", "VolumeAttachment") => vec![
            NAME,
            Row { name: "Attacher", ty: "string", format: "name", description: "@spec.attacher", priority: 0 },
            col("PV", "string", "@spec.source.persistentVolumeName"),
            col("Node", "string", "@spec.nodeName"),
            col("Attached", "boolean", "@status.attached"),
            AGE,
        ],
        ("storage.k8s.io", "CSINode") => {
            vec![NAME, col("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"), AGE]
        }
        ("storage.k8s.io", "CSIDriver") => vec![
            NAME,
            col("AttachRequired", "boolean", "@spec.attachRequired"),
            col("PodInfoOnMount", "boolean", "@spec.podInfoOnMount"),
            col("StorageCapacity", "boolean", "@spec.storageCapacity"),
            col("TokenRequests", "string", "@spec.tokenRequests"),
            col("RequiresRepublish", "boolean", "@spec.requiresRepublish"),
            col("Modes", "string", "@spec.volumeLifecycleModes"),
            AGE,
        ],
        ("apps", "ControllerRevision") => {
            vec![NAME, col("Controller", "string", "Controller of the object"), col("Revision", "string", "@revision"), AGE]
        }
        ("", "ResourceQuota") => vec![
            NAME,
            col("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume."),
            col(
                "Limit",
                "string",
                "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
            ),
            AGE,
        ],
        ("scheduling.k8s.io", "PriorityClass") => vec![
            NAME,
            col("Value", "integer", "@value"),
            col("Global-Default", "boolean", "@globalDefault"),
            AGE,
            col("PreemptionPolicy", "string", "@preemptionPolicy"),
        ],
        ("node.k8s.io", "RuntimeClass") => vec![NAME, col("Handler", "string", "@handler"), AGE],
        ("discovery.k8s.io", "EndpointSlice") => vec![
            NAME,
            col("AddressType", "string", "@addressType"),
            col("Ports", "string", "@ports"),
            col("Endpoints", "string", "@endpoints"),
            AGE,
        ],
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            vec![
                NAME,
                col("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"),
                AGE,
            ]
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => vec![
            NAME,
            col("Validations", "integer", "Validations indicates the number of validation rules defined in this configuration"),
            col("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"),
            AGE,
        ],
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => vec![
            NAME,
            col("Mutations", "integer", "Mutation indicates the number of mutations rules defined in this configuration"),
            col("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"),
            AGE,
        ],
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => vec![
            NAME,
            col("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to"),
            col("ParamRef", "string", "ParamRef indicates the param resource which sets the configration param"),
            AGE,
        ],
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => vec![
            NAME,
            col("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to"),
            col("ParamRef", "string", "ParamRef indicates the param resource which sets the configration param"),
            AGE,
        ],
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => vec![
            NAME,
            col("PriorityLevel", "string", "@spec.priorityLevelConfiguration"),
            col("MatchingPrecedence", "integer", "@spec.matchingPrecedence"),
            col("DistinguisherMethod", "string", "@spec.distinguisherMethod"),
            AGE,
            col("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
        ],
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => vec![
            NAME,
            col("Type", "string", "@spec.type"),
            col("NominalConcurrencyShares", "string", "@spec.limited.nominalConcurrencyShares"),
            col("Queues", "string", "@spec.limited.limitResponse.queuing.queues"),
            col("HandSize", "string", "@spec.limited.limitResponse.queuing.handSize"),
            col("QueueLengthLimit", "string", "@spec.limited.limitResponse.queuing.queueLengthLimit"),
            AGE,
        ],
        ("resource.k8s.io", "ResourceClaim") => {
            vec![NAME, col("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."), AGE]
        }
        ("resource.k8s.io", "ResourceClaimTemplate" | "DeviceClass") => vec![NAME, AGE],
        ("resource.k8s.io", "ResourceSlice") => vec![
            NAME,
            col("Node", "string", "@spec.nodeName"),
            col("Driver", "string", "@spec.driver"),
            col("Pool", "string", "@spec.pool.name"),
            AGE,
        ],
        ("networking.k8s.io", "ServiceCIDR") => vec![NAME, col("CIDRs", "string", "@spec.cidrs"), AGE],
        ("networking.k8s.io", "IPAddress") => vec![NAME, col("ParentRef", "string", "@spec.parentRef")],
        ("apiregistration.k8s.io", "APIService") => vec![
            NAME,
            col("Service", "string", "The reference to the service that hosts this API endpoint."),
            col("Available", "string", "Whether this service is available."),
            AGE,
        ],
        _ => vec![NAME, CREATED_AT],
    }
}
