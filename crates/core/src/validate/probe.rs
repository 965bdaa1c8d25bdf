//! Probes and lifecycle hooks: exactly one handler each.
//!
//! Upstream: `pkg/apis/core/validation/validation.go` (`validateProbe`, `validateHandler`, `validateLifecycle`), v1.36.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::container::port_number;
use super::{invalid_for, items, non_negative, text};
use crate::field::{Fault, Path};
use crate::names;

/// The three probes of a container.
pub(super) fn all(container: &Container, grace: Option<i64>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else {
            continue;
        };
        let path = path.field(field);
        self::probe(probe, grace, &path, faults);
        let grace_path = path.field("terminationGracePeriodSeconds");
        if field == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                faults.push(Fault::invalid(&grace_path, seconds, "must not be set for readinessProbes"));
            }
        } else if let Some(threshold) = probe.success_threshold.filter(|t| *t != 1) {
            faults.push(Fault::invalid(&path.field("successThreshold"), threshold, "must be 1"));
        }
    }
}

fn probe(probe: &Probe, grace: Option<i64>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    }
    .validate(grace, path, faults);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        non_negative(value.map(i64::from), &path.field(field), faults);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        let path = path.field("terminationGracePeriodSeconds");
        faults.push(Fault::invalid(&path, seconds, "must be greater than 0"));
    }
}

/// The lifecycle hooks of a container.
pub(super) fn lifecycle(container: &Container, grace: Option<i64>, path: &Path<'_>, faults: &mut Vec<Fault>) {
    let Some(lifecycle) = &container.lifecycle else {
        return;
    };
    let path = path.field("lifecycle");
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            Handler::from(hook).validate(grace, &path.field(field), faults);
        }
    }
}

/// What a probe or hook does; exactly one member is set.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(hook: &'a LifecycleHandler) -> Handler<'a> {
        Handler {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        }
    }
}

impl Handler<'_> {
    fn validate(&self, grace: Option<i64>, path: &Path<'_>, faults: &mut Vec<Fault>) {
        let mut first = true;
        let mut is_first = |field: &str, faults: &mut Vec<Fault>| {
            if !first {
                faults.push(Fault::forbidden(&path.field(field), "may not specify more than 1 handler type"));
            }
            std::mem::replace(&mut first, false)
        };
        if let Some(exec) = self.exec
            && is_first("exec", faults)
            && items(exec.command.as_ref()).is_empty()
        {
            faults.push(Fault::required(&path.field("exec").field("command"), ""));
        }
        if let Some(http) = self.http_get
            && is_first("httpGet", faults)
        {
            http_get(http, &path.field("httpGet"), faults);
        }
        if let Some(tcp) = self.tcp_socket
            && is_first("tcpSocket", faults)
        {
            port(&tcp.port, &path.field("tcpSocket").field("port"), faults);
        }
        if let Some(grpc) = self.grpc
            && is_first("grpc", faults)
        {
            port_number(grpc.port, &path.field("grpc").field("port"), faults);
        }
        if let Some(sleep) = self.sleep
            && is_first("sleep", faults)
            && let Some(grace) = grace
            && !(0..=grace).contains(&sleep.seconds)
        {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            faults.push(Fault::invalid(&path.field("sleep"), sleep.seconds, detail));
        }
        if first {
            faults.push(Fault::required(path, "must specify a handler type"));
        }
    }
}

fn http_get(http: &HTTPGetAction, path: &Path<'_>, faults: &mut Vec<Fault>) {
    if text(http.path.as_ref()).is_empty() {
        faults.push(Fault::required(&path.field("path"), ""));
    }
    port(&http.port, &path.field("port"), faults);
    let scheme = text(http.scheme.as_ref());
    if !matches!(scheme, "HTTP" | "HTTPS") {
        faults.push(Fault::not_supported(&path.field("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(http.http_headers.as_ref()) {
        let reasons = names::http_header_name(&header.name);
        invalid_for(reasons, &path.field("httpHeaders"), &header.name, faults);
    }
}

fn port(port: &IntOrString, path: &Path<'_>, faults: &mut Vec<Fault>) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, faults),
        IntOrString::String(name) => invalid_for(names::port_name(name), path, name, faults),
    }
}
