"""The app's URLs where a project would include them."""

from django.urls import include, path

urlpatterns = [path("api/", include("cas.urls"))]
