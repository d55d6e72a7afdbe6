"""How a guard is made: data, methods, synthesisers, regularisers, the loop. Needs torch; reached by `guard.train`."""
