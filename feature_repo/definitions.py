"""What `feast apply` reads: the definitions for the data directory that the environment names. The only file that .feastignore lets it see.

Feast takes the objects that it finds as attributes of this module, each under a name of its own.
"""

from feature_repo.repository import repository_settings
from feature_repo.views import definitions

_definitions = definitions(repository_settings().offline)

project = _definitions.project

user = _definitions.entities["user"]
pin = _definitions.entities["pin"]
topic = _definitions.entities["topic"]

user_action_sequence = _definitions.views["user_action_sequence"]
user_revisit_counters = _definitions.views["user_revisit_counters"]
pin_revisit_counters = _definitions.views["pin_revisit_counters"]
topic_revisit_stats = _definitions.views["topic_revisit_stats"]
user_embedding = _definitions.views["user_embedding"]

ranking_v1 = _definitions.services["ranking_v1"]
ranking_v1_user = _definitions.services["ranking_v1_user"]
ranking_v1_candidate = _definitions.services["ranking_v1_candidate"]
retrieval_v1 = _definitions.services["retrieval_v1"]
