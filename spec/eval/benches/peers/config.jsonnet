local base = import 'shared.libsonnet';

[base.service('web-%d' % i, replicas=i + 1, memory=(64 + i) * base.MiB) for i in std.range(0, 4)]
