"""How ``best.pt`` came about: data, training, evaluation, export. The engine never imports this."""
