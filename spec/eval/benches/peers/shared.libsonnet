{
  MiB: 1024 * 1024,
  service(name, replicas=2, memory=256 * self.MiB): {
    name: name,
    command: ['./server', '--port', '{port:http}'],
    replicas: replicas,
    resources: { cpu: 0.5, memory: memory },
    ports: ['http'],
    health: [{ port: 'http', path: '/healthz', every_s: 5 }],
  },
}
