// The shapes of what is not Kubernetes's own, as their makers publish them, for literals of JSON: a
// misspelt or missing key, and a value of the wrong type, do not compile.
import type { Dashboard, Panel, RowPanel as Row } from "@grafana/grafana-foundation-sdk/dashboard";
import type { Dataquery } from "@grafana/grafana-foundation-sdk/prometheus";

export type { IPrometheusRule as PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
export type { IServiceMonitor as ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

// JSON has strings where the library has enums, and no methods.
type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [Key in keyof T as T[Key] extends (() => unknown) ? never : Key]: Plain<T[Key]> }
      : T;

export type QueryPanel = Plain<Omit<Panel, "targets"> & { targets: Dataquery[] }>;
export type RowPanel = Plain<Row>;
export type GrafanaDashboard = Plain<Omit<Dashboard, "panels">> & { panels: [] };
