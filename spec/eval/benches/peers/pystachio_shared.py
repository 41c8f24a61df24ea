"""The shared module, in pystachio."""

from pystachio import Float, Integer, List, Required, String, Struct

MiB = 1024 * 1024


class Resources(Struct):
    cpu = Required(Float)
    memory = Required(Integer)


class HttpCheck(Struct):
    port = Required(String)
    path = Required(String)
    every_s = Required(Integer)


class Job(Struct):
    name = Required(String)
    command = Required(List(String))
    replicas = Required(Integer)
    resources = Required(Resources)
    ports = Required(List(String))
    health = Required(List(HttpCheck))


def service(name, replicas=2, memory=256 * MiB):
    return Job(
        name=name,
        command=["./server", "--port", "port-http"],
        replicas=replicas,
        resources=Resources(cpu=0.5, memory=memory),
        ports=["http"],
        health=[HttpCheck(port="http", path="/healthz", every_s=5)],
    )
