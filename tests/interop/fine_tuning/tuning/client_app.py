"""Flower wants a ClientApp in every bundle. The nodes of this app are C++ programs, which bring their own."""

from flwr.clientapp import ClientApp

app = ClientApp()
